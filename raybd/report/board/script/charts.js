// Views that are charts: quality against cost, numbers over the rate, trials of sweeps.
const SHADES = ["clean", "poison", "cross", "good", "bad", "link", "alarm", "caution"];

function drawPareto(place) {
  const track = pickTrack(place);
  const devices = distinct(track.methods.flatMap((one) => one.costs.map((cost) => cost.device))).sort();
  if (!devices.length) { make("p", "missing", "No cost is known.", place); return; }
  const device = pickOf(place, "k", "device", devices);
  defaultOnly(place);
  const points = track.methods.filter((one) => one.mean !== null).map((one) => ({ ...one, cost: one.costs.find((cost) => cost.device === device) })).filter((one) => one.cost && one.cost.seconds > 0);
  const gpu = points.some((one) => one.cost.gpu_seconds > 0);
  const spent = (one) => one.cost.gpu_seconds || one.cost.seconds;
  const front = points.filter((one) => !points.some((other) => spent(other) <= spent(one) && other.mean[0] >= one.mean[0] && (spent(other) < spent(one) || other.mean[0] > one.mean[0]))).sort((a, b) => spent(a) - spent(b));
  make("p", "dim", `Mean ${measureOf[track.measure].title} with its 95 % interval against the cost of a cell on ${device}, one kind of device at a time. On the front: ${front.map((one) => one.method).join(", ")}. A square: no GPU was used.`, place);
  const label = `${measureOf[track.measure].title} against seconds: ${points.map((one) => `${one.method} ${one.mean[0].toFixed(3)} at ${spent(one).toFixed(1)} s`).join(", ")}`;
  drawPlot(make("div", "plot-wide", null, place), [
    { x: front.map(spent), y: front.map((one) => one.mean[0]), mode: "lines", line: { color: colour("poison"), width: 1.5, shape: "hv" } },
    {
      x: points.map(spent), y: points.map((one) => one.mean[0]), errory: [points.map((one) => one.mean[1]), points.map((one) => one.mean[2])], mode: "markers+text", text: points.map((one) => one.method),
      marker: { size: 10, color: points.map((one) => colour(front.includes(one) ? "poison" : "clean")), symbol: points.map((one) => (one.cost.gpu_seconds ? "circle" : "square")) },
      hover: (i) => `${points[i].method}: ${shownEstimate(points[i].mean)}, ${spent(points[i]).toFixed(1)} s`,
    },
  ], { height: 420, label, xaxis: axis(gpu ? "GPU seconds of a cell" : "seconds of a cell", { log: true }), yaxis: axis(`mean ${measureOf[track.measure].title}`), right: 90 });
  makeTable(place, [track.one, `mean ${measureOf[track.measure].title}`, "seconds", "GPU seconds", "cells", "front"], points.map((one) => [one.method, shownEstimate(one.mean), one.cost.seconds.toFixed(1), one.cost.gpu_seconds.toFixed(1), String(one.cost.cells), front.includes(one) ? "yes" : ""]), "Quality and cost");
}

const OVER_RATE = [["attack_success", "attack success"], ["defended_attack_success", "attack success after"], ["tpr", "TPR"], ["auroc", "AUROC"]];

function drawRatios(place) {
  const some = passing.filter((row) => rows.group(row) !== "benign");
  if (!some.length) { make("p", "missing", "No row passes the filters.", place); return; }
  const attack = pickOf(place, "a", "attack", distinct(some.map((row) => rows.attack(row))).sort());
  const dataset = pickOf(place, "d", "data set", distinct(some.filter((row) => rows.attack(row) === attack).map((row) => rows.dataset(row))).sort());
  const network = pickOf(place, "w", "network", distinct(some.filter((row) => rows.attack(row) === attack && rows.dataset(row) === dataset).map((row) => rows.network(row))).sort());
  make("p", "dim", "Means over seeds with 95 % intervals, against the rate. A line joins rates that are neighbours among those that were run; nothing is known between them.", place);
  const own = some.filter((row) => rows.attack(row) === attack && rows.dataset(row) === dataset && rows.network(row) === network);
  for (const [measure, title] of OVER_RATE) {
    const methods = distinct(own.filter((row) => rows[measure].value(row) !== null).map((row) => rows.method(row))).sort();
    // Attack success is the victim's, whatever defends it.
    const shown = measure === "attack_success" ? methods.filter((method) => method === "none").concat(methods).slice(0, 1) : methods;
    if (!shown.length) continue;
    make("h3", "", title, place);
    const traces = shown.map((method, i) => {
      const line = own.filter((row) => rows.method(row) === method && rows[measure].value(row) !== null).sort((a, b) => rows.rate(a) - rows.rate(b));
      const part = (name) => line.map((row) => rows[measure][name](row));
      const shade = colour(SHADES[i % SHADES.length]);
      return { name: method === "none" ? "victim" : method, x: line.map((row) => rows.rate(row)), y: part("value"), band: [part("low"), part("high")], mode: "lines+markers", line: { color: shade }, marker: { color: shade, size: 6 }, hover: (k) => `${method}: ${shownShare(part("value")[k])} at ${rows.rate(line[k])}` };
    });
    const label = `${title} of ${shown.join(", ")} over the rates ${distinct(own.map((row) => rows.rate(row))).sort((a, b) => a - b).join(", ")}`;
    drawPlot(make("div", "plot-wide", null, place), traces, { height: 300, showlegend: true, label, xaxis: axis("rate", { log: true }), yaxis: axis(title, { range: [-0.02, 1.02] }) });
  }
}

function drawSensitivity(place) {
  if (!data.sensitivity.length) { make("p", "", "The store has no trials of sweeps.", place); return; }
  make("p", "dim", "What the trials of each sweep reached: least, quartiles, largest. The diamond is the default values. The budget is the number of trials.", place);
  for (const title of distinct(data.sensitivity.map((one) => one.measure))) {
    const found = data.sensitivity.filter((one) => one.measure === title);
    make("h3", "", title, place);
    const at = found.map((_, i) => i);
    const whiskers = found.map(({ box }, i) => ({ x: [box[0], box[4]], y: [i, i], mode: "lines", line: { color: colour("dim") } }));
    const boxes = found.map(({ box }, i) => ({ x: [box[1], box[3]], y: [i, i], mode: "lines", line: { color: colour("clean"), width: 10 }, opacity: 0.5 }));
    const middles = { x: found.map(({ box }) => box[2]), y: at, mode: "markers", marker: { size: 8, color: colour("clean") }, hover: (i) => `median ${found[i].box[2]}` };
    const defaults = { x: found.map((one) => one.default), y: at, mode: "markers", marker: { symbol: "diamond-open", size: 12, color: colour("ink") }, hover: (i) => `default ${found[i].default}` };
    drawPlot(make("div", "plot-wide", null, place), [...whiskers, ...boxes, middles, defaults], { height: 70 + 34 * found.length, label: `${title}: ${found.map((one) => `${one.sweep} median ${one.box[2]}`).join(", ")}`, xaxis: axis(title), yaxis: axis("", { reversed: true, tickvals: at, ticktext: found.map((one) => one.sweep), range: [-0.7, found.length - 0.3], strong: true, grid: false }) });
    makeTable(place, ["sweep", "least", "lower quartile", "median", "upper quartile", "largest", "default", "budget"], found.map((one) => [one.sweep, ...one.box.map((value) => number(value)), one.default === null ? "\u2013" : number(one.default), `${one.trials} trials, ${one.finished} finished`]), title);
  }
}
