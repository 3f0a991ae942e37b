// Views that are grids: attack by defense, network by data set, and what was run at all.
const WIDE = 0.1; // width of an interval above which a value is marked as unsure

function tinted(place, value, worst, best) {
  const share = 2 * Math.min(Math.max((value - worst) / (best - worst), 0), 1) - 1;
  place.classList.add(share >= 0 ? "good" : "bad");
  place.style.setProperty("--strength", `${Math.round(100 * Math.abs(share))}%`);
}

// The cell of a grid for some rows of one method.
function gridCell(measure, some) {
  return (place) => {
    place.className = "share";
    if (!some.length) { place.title = "not run"; return; }
    const known = some.filter((row) => rows[measure].value(row) !== null && rows.weak(row) < rows.seeds(row));
    const failed = some.filter((row) => rows.status(row) === "failed");
    if (!known.length) {
      const weak = some.every((row) => rows.weak(row) === rows.seeds(row));
      const word = failed.length ? "failed" : weak ? "attack failed" : rows.status(some[0]);
      place.classList.add(failed.length ? "failed" : weak ? "weak" : "none");
      place.textContent = failed.length ? "\u00d7" : weak ? "\u2013" : "";
      place.title = word;
      place.setAttribute("aria-label", word);
      return;
    }
    const mean = average(known.map((row) => rows[measure].value(row)));
    const unsure = known.some((row) => rows[measure].low(row) !== null && rows[measure].high(row) - rows[measure].low(row) > WIDE);
    place.textContent = mean.toFixed(2) + (unsure ? " \u00b7" : "") + (failed.length ? " \u00d7" : "");
    place.title = `mean of ${known.length} rows${unsure ? "; an interval is wider than 10 points" : ""}${failed.length ? `; ${failed.length} failed` : ""}`;
    tinted(place, mean, measure === "called" ? 0 : 0.5, 1);
  };
}

function pickOf(place, key, title, names) {
  if (!names.includes(state[key])) state[key] = names[0];
  const select = labelled(place, title, "select");
  for (const name of names) make("option", "", name, select).value = name;
  select.value = state[key];
  select.addEventListener("change", () => { state[key] = select.value; writeAddress(); drawAll(); });
  return state[key];
}

const pickTrack = (place) => trackOf[pickOf(place, "t", "kind of method", data.tracks.map((track) => track.name))];

function inTrack(track, some) {
  return some.map((row) => [row, methodIn(track, row)]).filter(([, method]) => method !== null);
}

function drawMatrix(place) {
  const track = pickTrack(place);
  make("p", "dim", `Mean ${measureOf[track.measure].title} of the rows that pass the filters, which may be several data sets, networks and rates. \u00b7 an interval is wider than 10 points; \u00d7 failed; hatched: the attack failed; blank: not run, or infeasible.`, place);
  const found = inTrack(track, passing).filter(([row]) => rows.group(row) !== "benign");
  const attacks = distinct(found.map(([row]) => rows.attack(row))).sort();
  const methods = distinct(found.map(([, method]) => method)).sort();
  const groups = new Map();
  for (const [row, method] of found) {
    const key = JSON.stringify([rows.attack(row), method]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  makeTable(place, ["attack", ...methods], attacks.map((attack) => [attack, ...methods.map((method) => gridCell(track.measure, groups.get(JSON.stringify([attack, method])) || []))]), "Attacks and methods", "grid");
}

function drawTransfer(place) {
  const track = pickTrack(place);
  const found = inTrack(track, passing).filter(([row]) => rows.group(row) !== "benign");
  if (!found.length) { make("p", "missing", "No row passes the filters.", place); return; }
  const method = pickOf(place, "m", track.one, distinct(found.map(([, name]) => name)).sort());
  const own = found.filter(([, name]) => name === method).map(([row]) => row);
  const attack = pickOf(place, "a", "attack", distinct(own.map((row) => rows.attack(row))).sort());
  make("p", "dim", `Mean ${measureOf[track.measure].title} of ${method} on ${attack}, for each network and data set: a method that was tuned on one of them shows it here.`, place);
  const some = own.filter((row) => rows.attack(row) === attack);
  const networks = distinct(some.map((row) => rows.network(row))).sort();
  const datasets = distinct(some.map((row) => rows.dataset(row))).sort();
  makeTable(place, ["network", ...datasets], networks.map((network) => [network, ...datasets.map((dataset) => gridCell(track.measure, some.filter((row) => rows.network(row) === network && rows.dataset(row) === dataset)))]), "Networks and data sets", "grid");
}

const FEW = 60;

function drawCoverage(place) {
  const counts = new Map();
  const words = cells.status.words;
  const wanted = new Set(passing);
  const other = [];
  for (let cell = 0; cell < CELLS; cell += 1) {
    const row = cells.row(cell);
    if (!wanted.has(row)) continue;
    const method = rows.method(row);
    if (!counts.has(method)) counts.set(method, Object.fromEntries(words.map((word) => [word, 0])));
    counts.get(method)[cells.status(cell)] += 1;
    if (cells.status(cell) !== "ok") other.push(cell);
  }
  const problems = new Set(passing.map((row) => [rows.dataset(row), rows.network(row), rows.trainer(row), rows.attack(row), rows.rate(row)].join("\u0001")));
  const ran = new Map();
  for (const row of passing) ran.set(rows.method(row), (ran.get(rows.method(row)) || 0) + 1);
  make("p", "dim", `Cells by status, and on how many of ${problems.size} problems each method was run, under the filters. Gate: ${passing.filter((row) => rows.weak(row)).length} rows have seeds whose attack failed.`, place);
  makeTable(place, ["method", "problems", ...words], [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([method, found]) => [method, `${ran.get(method)} of ${problems.size}`, ...words.map((word) => String(found[word]))]), "Status of the cells by method");
  if (!other.length) return;
  make("h2", "", `${other.length.toLocaleString("en")} cells without a result`, place);
  if (other.length > FEW) make("p", "note", `The first ${FEW} are listed. Filter to see others; all are in cells.csv.gz.`, place);
  const element = makeTable(place, ["cell", "status", "reason", "try again"], other.slice(0, FEW).map((cell) => {
    const row = cells.row(cell);
    const detail = shardOf(cell);
    const told = (name) => (target) => { detail.then((found) => { target.textContent = name(found); }, (error) => { target.textContent = error.message; }); };
    return [`${rows.method(row)} on ${rows.attack(row)} at ${rows.rate(row)}, ${rows.dataset(row)}, ${rows.network(row)}, seed ${cells.seed(cell)}`, cells.status(cell), told((found) => found.error || "\u2013"), told((found) => (cells.status(cell) === "infeasible" ? "no: it cannot be run" : `raybd run STORE/experiments/${found.experiment}.yaml --store STORE`))];
  }), "Cells without a result");
  element.classList.add("wrapped");
}
