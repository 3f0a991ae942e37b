// Two methods beside each other, and what others say.
function drawCompare(place) {
  const track = pickTrack(place);
  const names = track.methods.map((one) => one.method);
  if (names.length < 2) { make("p", "missing", "It takes two methods.", place); return; }
  const first = pickOf(place, "x", "first", names);
  const second = pickOf(place, "y", "second", names.filter((name) => name !== first));
  const values = new Map();
  for (const [row, method] of inTrack(track, passing)) {
    if ((method !== first && method !== second) || rows.group(row) === "benign" || rows.weak(row) === rows.seeds(row)) continue;
    const key = [rows.dataset(row), rows.network(row), rows.trainer(row), rows.attack(row), rows.rate(row)].join(", ");
    if (!values.has(key)) values.set(key, {});
    values.get(key)[method] = row;
  }
  // The same seeds for both: only those that both have, and whose attack worked.
  const bySeed = (row) => new Map(Array.from({ length: firstCell[row + 1] - firstCell[row] }, (_, at) => firstCell[row] + at).filter((cell) => cells[track.measure](cell) !== null && (cells.attack_success(cell) === null || cells.attack_success(cell) >= 0.5)).map((cell) => [cells.seed(cell), cells[track.measure](cell)]));
  const common = [...values].filter(([, found]) => found[first] !== undefined && found[second] !== undefined).map(([key, found]) => {
    const [a, b] = [bySeed(found[first]), bySeed(found[second])];
    const seeds = [...a.keys()].filter((seed) => b.has(seed));
    return { key, n: seeds.length, a: average(seeds.map((seed) => a.get(seed))), b: average(seeds.map((seed) => b.get(seed))) };
  }).filter(({ n }) => n).sort((one, other) => (one.a - one.b) - (other.a - other.b));
  if (!common.length) { make("p", "missing", "They have no problem in common under the filters.", place); return; }
  const better = common.filter(({ a, b }) => a > b).length;
  const worse = common.filter(({ a, b }) => a < b).length;
  const title = measureOf[track.measure].title;
  make("p", "", `${first} has the higher ${title} on ${better} of ${common.length} problems, ${second} on ${worse}.`, place);
  const [i, k] = [track.compared.indexOf(first), track.compared.indexOf(second)];
  const told = track.differences.find(([a, b]) => (a === i && b === k) || (a === k && b === i));
  if (told && isDefault()) {
    const sign = told[0] === i ? 1 : -1;
    const points = (value) => (value === null ? null : `${(100 * value).toFixed(1)}`);
    const ends = told[3] === null ? "no interval" : `[${points(sign === 1 ? told[3] : -told[4])}, ${points(sign === 1 ? told[4] : -told[3])}]`;
    make("p", "", `Over the ${told[8]} problems that all ranked methods have, the difference is ${points(sign * told[2])} points ${ends}, drawing attacks within data sets; q = ${told[9] < 0.001 ? "< 0.001" : told[9].toFixed(3)} (Wilcoxon over problems; Benjamini-Hochberg over all pairs).`, place);
  } else make("p", "note", isDefault() ? "One of them is not ranked: no interval." : NOT_RANKED, place);
  const at = common.map((_, j) => j);
  drawPlot(make("div", "plot-wide", null, place), [{ type: "bar", x: at, y: common.map(({ a, b }) => 100 * (a - b)), width: 0.8, marker: { color: common.map(({ a, b }) => colour(a >= b ? "good" : "bad")) }, hover: (j) => `${common[j].key}: ${(100 * (common[j].a - common[j].b)).toFixed(1)} points` }], { height: 260, label: `${first} minus ${second} on ${common.length} problems, in points`, xaxis: axis("problems, by difference", { tickvals: [], ticktext: [] }), yaxis: axis("points") });
  makeTable(place, ["problem", first, second, "difference, points", "seeds"], common.slice().reverse().slice(0, 200).map(({ key, a, b, n }) => [key, shownShare(a), shownShare(b), (100 * (a - b)).toFixed(1), String(n)]), "Differences by problem");
}

// An address of somebody else is a text: nothing on this page leads away.
const withoutScheme = (text) => String(text).replace(/^[a-z]+:\/\//i, "");

function drawEntries(place) {
  if (!data.entries.length) { make("p", "", "The store holds no entries from outside (board/entries/*.json).", place); return; }
  make("p", "note", "Numbers from outside have no rank. Measured ones can be computed again from a bundle; reported ones stand in a paper.", place);
  for (const entry of data.entries) {
    make("h2", "", entry.name, place);
    const about = [entry.authors, entry.paper, entry.code, entry.licence && `licence ${entry.licence}`, entry.numbers, entry.target && `made against ${entry.target}`, entry.bundle && `bundle ${entry.bundle.slice(0, 16)}`];
    make("p", "dim", about.filter(Boolean).map(withoutScheme).join("; "), place);
    if (entry.unreliable) make("p", "missing", `Unreliable: ${entry.unreliable}`, place);
    makeTable(place, ["measure", "value", "defense", "attack", "rate", "data set", "network", "seeds"], entry.results.map((one) => [one.measure, shownEstimate([one.value, one.low, one.high]), one.defense, one.attack, String(one.rate), one.dataset, one.network, one.seeds === null ? "not told" : String(one.seeds)]), `Numbers of ${entry.name}`, "outside");
  }
}
