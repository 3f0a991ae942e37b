// Draws the view that the address asks for.
const VIEWS = {
  ranking: ["Ranking", drawRanking], matrix: ["Matrix", drawMatrix], worst: ["Worst case", drawWorst], pareto: ["Quality and cost", drawPareto], ratios: ["Over the rate", drawRatios],
  transfer: ["Transfer", drawTransfer], compare: ["Compare two", drawCompare], ranks: ["Ranks", drawRanks], coverage: ["Coverage", drawCoverage], sensitivity: ["Sensitivity", drawSensitivity], entries: ["From outside", drawEntries],
};

function drawAll() {
  filterRows();
  const view = document.getElementById("view");
  view.replaceChildren();
  document.getElementById("ranking").hidden = true;
  if (data.tracks.length || state.v === "coverage" || state.v === "entries") VIEWS[state.v][1](view);
  for (const button of document.querySelectorAll("#views button")) {
    if (button.dataset.view === state.v) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  showFilters(document.getElementById("filters"));
  table.count.textContent = `${passing.length.toLocaleString("en")} of ${ROWS.toLocaleString("en")} rows; seeds are folded, [low, high] is a 95 % interval.`;
  table.selected = -1;
  sortRows();
  drawRows();
}

const nav = document.getElementById("views");
for (const [name, [title]] of Object.entries(VIEWS)) {
  const button = make("button", "", title, nav);
  button.type = "button";
  button.dataset.view = name;
  button.addEventListener("click", () => { state.v = name; writeAddress(); drawAll(); });
}
readAddress();
makeFilters(document.getElementById("filters"));
makeRows(document.getElementById("table"));
document.getElementById("plain").remove();
window.addEventListener("hashchange", () => { readAddress(); drawAll(); });
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  document.querySelector('[data-key="q"]').focus();
});
drawAll();
