// Sorts, filters, and draws what a <details> holds when it is opened for the first time.
// Not before: plots take long, and in a closed <details> there is no width to draw them in.
function draw(details) {
  if (details.dataset.drawn || !details.open) return;
  details.dataset.drawn = "yes";
  details.querySelectorAll(".cell").forEach(drawCell);
  details.querySelectorAll(".attack").forEach(drawAttack);
  details.querySelectorAll(".defended-plot").forEach(drawDefended);
  details.querySelectorAll(".sweep-plots").forEach(drawSweep);
}

// Columns that every row has: names, seeds, status.
const IDENTITY = 6;

function sortBy(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", direction);
  // A row without results has fewer cells: one that gives the reason replaces all its numbers.
  const width = header.parentElement.cells.length;
  const value = (body) => {
    const cells = body.rows[0].cells;
    if (cells.length < width && column >= IDENTITY) return ""; // a reason replaces all its numbers
    const cell = cells[column];
    return cell.dataset.v ?? cell.textContent.trim().toLowerCase();
  };
  const isNumber = header.classList.contains("number");
  const sign = direction === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!isNumber) return sign * x.localeCompare(y, "en", { numeric: true });
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values come last in both directions
    return sign * (Number(x) - Number(y));
  };
  // Each row is a <tbody> with its seeds and its reasons, which move along.
  table.append(...[...table.tBodies].sort(compare));
}

const anyShown = (elements) => [...elements].some((element) => !element.hidden);

function filterRows(text) {
  const asked = text.toLowerCase().split(/\s+/).filter(Boolean);
  const holds = (element) => asked.every((word) => element.textContent.toLowerCase().includes(word));
  document.querySelectorAll("tbody").forEach((body) => { body.hidden = !holds(body); });
  document.querySelectorAll("details.filtered").forEach((details) => { details.hidden = !holds(details.querySelector("summary")); });
  // A heading with nothing below it is hidden, too.
  document.querySelectorAll(".group").forEach((group) => { group.hidden = asked.length > 0 && !anyShown(group.querySelectorAll("tbody, details.filtered")); });
  document.querySelectorAll("main > section").forEach((section) => { section.hidden = asked.length > 0 && !anyShown(section.querySelectorAll("tbody, details.filtered")); });
  document.getElementById("nothing").hidden = anyShown(document.querySelectorAll("main > section"));
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (!details) return;
  details.open = true;
  // Now, not at the toggle event: what is drawn above the target moves it.
  draw(details);
  target.scrollIntoView();
}

// Some are open from the beginning.
document.querySelectorAll("details.drawn").forEach((details) => { details.addEventListener("toggle", () => draw(details)); draw(details); });
document.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", () => sortBy(button.closest("th"))));
document.querySelectorAll("button.seeds").forEach((button) => button.addEventListener("click", () => {
  const shown = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(shown));
  button.closest("tbody").querySelectorAll("tr.seed").forEach((row) => { row.hidden = !shown; });
}));
document.getElementById("filter").addEventListener("input", (event) => filterRows(event.target.value));
window.addEventListener("hashchange", openTarget);
openTarget();
