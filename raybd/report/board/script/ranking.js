// The ranking under other filters, ranks with cliques, and the worst case.
const NOT_RANKED = "Mean and n of the rows that pass the filters, with the seeds that each has: no ranks, no intervals. Reset the filters to get them.";
const plainNote = (parent) => make("p", "note", NOT_RANKED, parent);

// The rows of each method of a track that pass, and count: poisoned, attack worked, run.
function countedRows(track, benign) {
  const found = new Map();
  for (const row of passing) {
    const method = methodIn(track, row);
    if (method === null || (rows.group(row) === "benign") !== benign) continue;
    // A victim without a backdoor says nothing about a defense.
    if (rows.weak(row) === rows.seeds(row)) continue;
    if (!found.has(method)) found.set(method, []);
    found.get(method).push(row);
  }
  return found;
}

const valuesOf = (some, measure) => some.map((row) => rows[measure].value(row)).filter((value) => value !== null);

function benignChange(track, some) {
  if (track.name !== "defenses") return average(valuesOf(some, track.name === "detectors" ? "fpr" : "called"));
  const changes = some.filter((row) => rows.defended_clean_accuracy.value(row) !== null).map((row) => rows.defended_clean_accuracy.value(row) - rows.clean_accuracy.value(row));
  return average(changes);
}

function drawRanking(place) {
  document.getElementById("ranking").hidden = !isDefault();
  if (isDefault()) return;
  plainNote(place);
  for (const track of data.tracks) {
    const counted = countedRows(track, false);
    const benign = countedRows(track, true);
    if (!counted.size) continue;
    make("h2", "", track.title, place);
    const lines = [...counted].map(([method, some]) => {
      const known = some.filter((row) => rows[track.measure].value(row) !== null);
      const worst = known.reduce((least, row) => (least === null || rows[track.measure].value(row) < rows[track.measure].value(least) ? row : least), null);
      return { method, some, mean: average(valuesOf(some, track.measure)), n: known.length, worst, control: benign.has(method) ? benignChange(track, benign.get(method)) : null, spent: average(some.map((row) => rows.seconds(row)).filter((value) => !Number.isNaN(value))) };
    });
    lines.sort((a, b) => (b.mean === null ? -1 : b.mean) - (a.mean === null ? -1 : a.mean) || (a.method < b.method ? -1 : 1));
    makeTable(place, [track.one, `mean ${measureOf[track.measure].title}`, "n rows", "failed", "worst row", `benign: ${track.benign}`, "seconds"], lines.map(({ method, some, mean, n, worst, control, spent }) => [
      method, shownShare(mean), String(n), String(some.filter((row) => rows.status(row) === "failed").length),
      worst === null ? "\u2013" : `${shownShare(rows[track.measure].value(worst))} (${rows.attack(worst)} at ${rows.rate(worst)}, ${rows.dataset(worst)})`,
      benign.has(method) ? shownShare(control) : "no benign run", spent === null ? "\u2013" : spent.toFixed(1),
    ]), `${track.title} under these filters`);
  }
  if (!passing.length) make("p", "missing", "No row passes the filters.", place);
}

const defaultOnly = (place) => { if (!isDefault()) make("p", "note", "These numbers are those of the default filter: statistics are not computed in the page.", place); };

function drawRanks(place) {
  defaultOnly(place);
  for (const track of data.tracks) {
    const ranked = track.methods.filter((one) => one.rank !== null);
    if (!ranked.length) continue;
    make("h2", "", `${track.title}: mean ranks`, place);
    make("p", "dim", `Over ${track.problems} common problems; 1 is best. Whiskers: 95 %, drawing attacks within data sets. A bar joins methods that hold no significant difference (Wilcoxon in pairs, Holm).`, place);
    const at = ranked.map((_, i) => i);
    const marks = { x: ranked.map((one) => one.rank[0]), y: at, mode: "markers", errorx: [ranked.map((one) => one.rank[1]), ranked.map((one) => one.rank[2])], marker: { color: colour("clean"), size: 9 }, hover: (i) => `${ranked[i].method}: ${ranked[i].rank[0].toFixed(2)}, the best in ${Math.round(100 * ranked[i].best)} % of the draws` };
    const joined = track.cliques.map((group, i) => {
      const own = group.map((method) => ranked.findIndex((one) => one.method === method));
      const x = Math.max(...ranked.map((one) => (one.rank[2] === null ? one.rank[0] : one.rank[2]))) + 0.25 * (i + 1);
      return { x: [x, x], y: [Math.min(...own) - 0.2, Math.max(...own) + 0.2], mode: "lines", line: { color: colour("poison"), width: 4 }, followed: group.join(", ") };
    });
    drawPlot(make("div", "plot-wide", null, place), [marks, ...joined], { height: 60 + 24 * ranked.length, label: `Mean ranks of ${track.title}: ${ranked.map((one) => `${one.method} ${one.rank[0].toFixed(2)}`).join(", ")}`, xaxis: axis("mean rank"), yaxis: axis("", { reversed: true, tickvals: at, ticktext: ranked.map((one) => one.method), range: [-0.6, ranked.length - 0.4], strong: true, grid: false }) });
    makeTable(place, [track.one, "mean rank", "n clusters", "best in", "coverage"], ranked.map((one) => [one.method, shownEstimate(one.rank), String(one.rank[3]), `${Math.round(100 * one.best)} %`, `${Math.round(100 * one.coverage)} %`]), `Ranks of ${track.title}`);
    const alike = track.cliques.map((group) => group.join(", "));
    make("p", "", alike.length ? `Not told apart: ${alike.join("; ")}.` : "All of them are told apart, or there is one problem only.", place);
  }
}

function drawWorst(place) {
  const label = labelled(place, "clean accuracy that a defense may cost, in points", "input");
  const budget = Number(state.budget === undefined ? 100 * data.budget : state.budget);
  Object.assign(label, { type: "range", min: 0, max: 20, step: 0.5, value: budget });
  const shown = make("output", "", `${budget} points`, place);
  const results = make("div", "", null, place);
  const draw = () => drawWorstAt(results, Number(label.value) / 100);
  label.addEventListener("input", () => { shown.textContent = `${label.value} points`; state.budget = label.value; writeAddress(); draw(); });
  draw();
}

function drawWorstAt(place, budget) {
  place.replaceChildren();
  const sure = isDefault() && Math.abs(budget - data.budget) < 1e-9;
  make("p", sure ? "dim" : "note", sure ? "Least value over the attacks. The interval of the least draws the seeds of each attack anew: the least of noisy values is too low on average." : "Least of the row means, without an interval: intervals exist for the default filter and budget.", place);
  for (const track of data.tracks) {
    const counted = countedRows(track, false);
    if (!counted.size) continue;
    make("h2", "", track.title, place);
    const defends = track.name === "defenses";
    const told = Object.fromEntries(track.methods.map((one) => [one.method, one]));
    const lines = [...counted].map(([method, some]) => {
      const known = some.filter((row) => rows[track.measure].value(row) !== null);
      const fall = (row) => rows.clean_accuracy.value(row) - rows.defended_clean_accuracy.value(row);
      const within = known.filter((row) => !defends || rows.defended_clean_accuracy.value(row) === null || fall(row) <= budget + 1e-9);
      const pick = (measure, sign) => within.filter((row) => rows[measure].value(row) !== null).reduce((best, row) => (best === null || sign * rows[measure].value(row) < sign * rows[measure].value(best) ? row : best), null);
      return { method, known, within, least: pick(track.measure, 1), success: defends ? pick("defended_attack_success", -1) : null };
    });
    lines.sort((a, b) => (b.least === null ? -1 : rows[track.measure].value(b.least)) - (a.least === null ? -1 : rows[track.measure].value(a.least)));
    const where = (row) => (row === null ? "\u2013" : `${rows.attack(row)} at ${rows.rate(row)}, ${rows.dataset(row)}, ${rows.network(row)}`);
    const titles = [track.one, `least ${measureOf[track.measure].title}`, "on", ...(sure ? ["least, with interval"] : []), ...(defends ? ["highest attack success after", "on", "over the budget"] : [])];
    makeTable(place, titles, lines.map(({ method, known, within, least, success }) => [
      method, least === null ? "\u2013" : shownShare(rows[track.measure].value(least)), where(least),
      ...(sure ? [told[method] && told[method].worst ? shownEstimate(told[method].worst.minimum) : "\u2013"] : []),
      ...(defends ? [success === null ? "\u2013" : shownShare(rows.defended_attack_success.value(success)), where(success), `${known.length - within.length} of ${known.length}`] : []),
    ]), `Worst case of ${track.title}`);
  }
}
