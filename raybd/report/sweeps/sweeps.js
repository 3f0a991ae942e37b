// Draws a sweep.
const STATES = { failed: ["x-thin", "alarm"], infeasible: ["triangle-up-open", "caution"], pruned: ["triangle-down-open", "cross"] };

const arrow = (objective) => (objective.direction === "maximize" ? "\u2191" : "\u2193");
const wanted = (objective) => `${objective.name} ${arrow(objective)}${objective.oracle ? " (oracle)" : ""}`;
const better = (objective) => `${objective.direction === "maximize" ? "higher" : "lower"} is better`;
const digits = (value) => (value === null ? "\u2013" : String(Number(value.toPrecision(4))));

// The text of a trial's point: its objectives, and its AUROC.
function told(sweep, i) {
  const parts = sweep.objectives.map((objective, k) => `${objective.name} ${digits(sweep.value[k][i])}`);
  if (sweep.auroc[i] !== null && !sweep.objectives.some((objective) => objective.name === "auroc")) parts.push(`AUROC ${digits(sweep.auroc[i])}`);
  return `trial ${sweep.trial[i]}\n${parts.join("\n")}`;
}

function points(sweep, x, y) {
  const best = new Set(sweep.best);
  const each = (one, other) => sweep.trial.map((_, i) => (best.has(i) ? one : other));
  return { x, y, mode: "markers", name: "trial", hover: (i) => told(sweep, i), marker: { color: each(colour("poison"), colour("clean")), size: each(10, sweep.trial.length > 150 ? 5 : 7), opacity: each(1, 0.65) } };
}

function defaultPoint(x, y) {
  return { x: [x], y: [y], mode: "markers", name: "default", marker: { symbol: "diamond-open", size: 11, color: colour("ink") }, hover: () => `default\n${digits(x)}, ${digits(y)}` };
}

// The legend of a chart can't show the best point, which has another colour than its trace.
function key(parent, sweep, lines, others) {
  const place = make("div", "legend", null, parent);
  const several = sweep.objectives.length > 1;
  const entries = [["trial", "clean", "\u25cf"], [several ? "on the Pareto front" : "best trial", "poison", "\u25cf"]];
  if (sweep.default) entries.push(["default", "ink", lines ? "\u2504" : "\u25c7"]);
  if (others) for (const [state, mark] of [["failed", "\u00d7"], ["infeasible", "\u25b3"], ["pruned", "\u25bd"]]) if ((sweep.others[state] || []).length) entries.push([state, STATES[state][1], mark]);
  for (const [text, name, mark] of entries) {
    const entry = make("span", "", null, place);
    make("b", "", mark + " ", entry).style.color = `var(--${name})`;
    entry.append(text);
  }
}

function panel(grid, title, text) {
  const place = make("div", "", null, grid);
  make("h4", "", title, place);
  if (text) make("p", "dim", text, place);
  return place;
}

function drawHistory(grid, sweep, i) {
  const objective = sweep.objectives[i];
  const place = panel(grid, `History: ${objective.name} ${arrow(objective)}${objective.oracle ? " (oracle)" : ""}, ${better(objective)}`);
  key(place, sweep, true, true);
  const at = sweep.trial.map(Number);
  const traces = [{ x: at, y: sweep.so_far[i], mode: "lines", line: { shape: "hv", color: colour("poison"), width: 1.5 } }, points(sweep, at, sweep.value[i])];
  // Trials without a result have no height: they get a strip of their own below the chart.
  const other = Object.entries(STATES).filter(([state]) => (sweep.others[state] || []).length);
  for (const [row, [state, [symbol, name]]] of other.entries()) {
    traces.push({ x: sweep.others[state].map(Number), y: sweep.others[state].map(() => row), yaxis: "y2", mode: "markers", marker: { symbol, size: 8, color: colour(name) }, hover: (k) => `trial ${sweep.others[state][k]}: ${state}` });
  }
  const strip = 0.05 * other.length;
  const start = sweep.default && sweep.default.value[i];
  const shapes = sweep.default ? [{ x0: "low", x1: "high", y0: start, y1: start, line: { color: colour("ink"), width: 1.5, dash: "dash" } }] : [];
  const all = [...sweep.value[i], ...(sweep.default ? [start] : [])];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = 0.06 * (high - low || 1);
  const plot = make("div", "plot", null, place);
  return () => drawPlot(plot, traces, {
    shapes, label: `${objective.name} of the trials in their order; the best so far ends at ${digits(sweep.so_far[i].at(-1))}`, xaxis: axis("trial", { range: [Math.min(0, ...at) - 0.5, Math.max(...at, ...other.flatMap(([state]) => sweep.others[state].map(Number))) + 0.5] }),
    yaxis: axis(wanted(objective), { domain: [other.length ? 0.04 + strip : 0, 1], range: [low - margin, high + margin] }), ...(other.length ? { yaxis2: axis("", { domain: [0, strip], range: [-0.6, other.length - 0.4], hidden: true }) } : {}),
  });
}

function drawImportance(grid, sweep) {
  const found = sweep.importance;
  if (found.missing) {
    panel(grid, "Importance of the parameters", `Not shown: ${found.missing}.`);
    return () => {};
  }
  const few = found.n < 50 ? " Few trials: take it as a hint." : "";
  const place = panel(grid, "Importance of the parameters", `What tells the best ${found.top} of ${found.n} finished trials from the others (PED-ANOVA).${few}`);
  // A parameter with a condition is judged by few trials: the title says by how many.
  const names = found.params.map(([title, n]) => title + (n < found.n ? ` (${n} of ${found.n})` : ""));
  const colours = ["clean", "cross", "poison", "good", "bad"];
  const at = names.map((_, i) => i);
  const width = 0.7 / found.targets.length;
  const traces = found.targets.map(([name, shares], k) => ({ type: "bar", orientation: "h", name: `for ${name}`, x: shares, y: at, width, shift: k - (found.targets.length - 1) / 2, marker: { color: colour(colours[k]) }, hover: (i) => `${names[i]}: ${shares[i].toFixed(2)} for ${name}` }));
  const plot = make("div", "plot", null, place);
  if (found.params.some(([, n]) => n < found.n)) make("p", "dim", "(n of N): the parameter has a condition, and only n of the N finished trials have it.", place);
  return () => drawPlot(plot, traces, {
    height: Math.max(260, 70 + names.length * (8 + 9 * traces.length)), showlegend: true, label: `Importance for ${found.targets.map(([name, shares]) => `${name}: ${names.map((title, i) => `${title} ${shares[i].toFixed(2)}`).join(", ")}`).join("; ")}`,
    xaxis: axis("share", { zero: true }), yaxis: axis("", { reversed: true, tickvals: at, ticktext: names, range: [-0.6, names.length - 0.4], strong: true, grid: false }),
  });
}

function drawOracle(grid, sweep, i, correlation) {
  const objective = sweep.objectives[i];
  const rho = correlation === null ? "No rank correlation: it takes at least three trials with different values." : `Rank correlation (Spearman) over the trials: ${correlation.toFixed(2)}${objective.direction === "minimize" ? "; lower is better, so \u22121 would be perfect" : "; 1 would be perfect"}.`;
  const place = panel(grid, `${objective.name} ${arrow(objective)} beside the oracle AUROC`, rho);
  key(place, sweep, false, false);
  const traces = [points(sweep, sweep.value[i], sweep.auroc)];
  if (sweep.default) traces.push(defaultPoint(sweep.default.value[i], sweep.default.auroc));
  const plot = make("div", "plot", null, place);
  return () => drawPlot(plot, traces, { label: `${objective.name} and AUROC of ${sweep.trial.length} trials. ${rho}`, xaxis: axis(wanted(objective)), yaxis: axis("AUROC (oracle)") });
}

function drawPareto(grid, sweep, i, j) {
  const several = sweep.objectives.length > 2;
  const [x, y] = [sweep.objectives[i], sweep.objectives[j]];
  const place = panel(grid, `Pareto front: ${x.name} and ${y.name}`, `${x.name}: ${better(x)}; ${y.name}: ${better(y)}. ${sweep.best.length} trials on the front${several ? " of all objectives" : ""}: no other trial is better in all of them.`);
  key(place, sweep, false, false);
  const front = sweep.best.slice().sort((a, b) => sweep.value[i][a] - sweep.value[i][b]);
  // A step lies on the side of what a trial of the front has reached. The order of the points is
  // that of x, so that it depends on the direction of x alone.
  const line = { x: front.map((k) => sweep.value[i][k]), y: front.map((k) => sweep.value[j][k]), mode: "lines", line: { color: colour("poison"), width: 1.5, shape: x.direction === "maximize" ? "vh" : "hv" } };
  // The front of more than two objectives is no line in a plot of two of them.
  const traces = [...(several ? [] : [line]), points(sweep, sweep.value[i], sweep.value[j])];
  if (sweep.default) traces.push(defaultPoint(sweep.default.value[i], sweep.default.value[j]));
  const plot = make("div", "plot", null, place);
  return () => drawPlot(plot, traces, { label: `${x.name} and ${y.name} of ${sweep.trial.length} trials; ${front.length} are on the front`, xaxis: axis(wanted(x)), yaxis: axis(wanted(y)) });
}

function drawParallel(place, sweep) {
  const { axes, order } = sweep.parallel;
  make("h4", "", "Parallel axes", place);
  make("p", "dim", `Each line is a finished trial, drawn stronger the better its ${sweep.objectives[0].name} is. On the axes of the objectives, better is up. "Not used": the trial does not have the parameter. Point at a line to highlight it.`, place);
  key(place, sweep, true, false);
  const scroll = make("div", "sweep-wide", null, place);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Parallel axes");
  const plot = make("div", "", null, scroll);
  const best = new Set(sweep.best);
  const xs = axes.map((_, k) => k);
  const heights = (i) => axes.map((one) => one.at[i]);
  // Worst first: what is drawn later lies on top.
  const ordered = [...order.filter((i) => !best.has(i)), ...order.filter((i) => best.has(i))];
  const many = ordered.length > 100;
  const traces = ordered.map((i, place2) => {
    const shade = colour(best.has(i) ? "poison" : "clean");
    // Many lines add up, so that weak ones must be fainter the more there are.
    const opacity = best.has(i) ? 0.95 : (many ? 0.06 : 0.1) + 0.6 * (place2 / ordered.length) ** (many ? 3 : 2);
    return { x: xs, y: heights(i), mode: "lines+markers", line: { color: shade, width: best.has(i) ? 2.2 : 1.2 }, opacity, followed: told(sweep, i), marker: { size: many ? 2.5 : 4, color: shade, opacity } };
  });
  if (sweep.default) traces.push({ x: xs, y: axes.map((one) => one.default), mode: "lines+markers", line: { color: colour("ink"), width: 1.8, dash: "dash" }, marker: { symbol: "diamond-open", size: 7, color: colour("ink") }, hover: () => "default" });
  const title = (one) => (one.objective === undefined || one.objective === null ? one.title : wanted(sweep.objectives[one.objective]));
  // Each parallel axis has its ticks beside it.
  const labels = axes.flatMap((one, k) => [
    { x: k, y: 1.08, text: title(one), bold: one.objective !== undefined, ink: true },
    ...one.ticks.map(([height, text]) => ({ x: k, y: height, text: String(text), anchor: "start", shift: 5 })),
  ]);
  const rules = axes.map((_, k) => ({ x0: k, x1: k, y0: 0, y1: 1, line: { color: colour("dim"), width: 1 } }));
  drawPlot(plot, traces, { height: 380, least: 100 * axes.length, shapes: rules, annotations: labels, right: 80, label: `Parallel axes of ${ordered.length} trials: ${axes.map(title).join(", ")}; the table of the trials has the values`, xaxis: axis("", { range: [-0.15, axes.length - 0.85], hidden: true }), yaxis: axis("", { range: [-0.2, 1.16], hidden: true }) });
}

function drawSweep(place) {
  const sweep = data.sweeps[Number(place.dataset.sweep)];
  const grid = make("div", "sweep-grid", null, place);
  const known = sweep.auroc.some((value) => value !== null);
  const pairs = sweep.objectives.flatMap((_, i) => sweep.objectives.map((__, j) => [i, j])).filter(([i, j]) => i < j);
  const drawn = [ // drawn when all panels exist, because a plot takes the width that it finds
    ...sweep.objectives.map((_, i) => drawHistory(grid, sweep, i)),
    ...pairs.map(([i, j]) => drawPareto(grid, sweep, i, j)),
    ...Object.entries(sweep.correlation).filter(() => known).map(([i, correlation]) => drawOracle(grid, sweep, Number(i), correlation)),
    drawImportance(grid, sweep),
  ];
  drawn.forEach((plot) => plot());
  drawParallel(place, sweep);
}
