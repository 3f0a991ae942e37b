// Draws a sweep.
const STATES = { failed: ["x-thin", "alarm"], infeasible: ["triangle-up-open", "caution"], pruned: ["triangle-down-open", "cross"] };
// Plotly has one opacity for each trace: lines of similar rank share a trace.
const BANDS = 6;

const arrow = (objective) => (objective.direction === "maximize" ? "\u2191" : "\u2193");
const wanted = (objective) => `${plain(objective.name)} ${arrow(objective)}${objective.oracle ? " (oracle)" : ""}`;
const better = (objective) => `${objective.direction === "maximize" ? "higher" : "lower"} is better`;
const digits = (value) => (value === null ? "\u2013" : String(Number(value.toPrecision(4))));

// The text of a trial's point: its objectives, and its AUROC.
function told(sweep, i) {
  const parts = sweep.objectives.map((objective, k) => `${plain(objective.name)} ${digits(sweep.value[k][i])}`);
  if (sweep.auroc[i] !== null && !sweep.objectives.some((objective) => objective.name === "auroc")) parts.push(`AUROC ${digits(sweep.auroc[i])}`);
  return `trial ${plain(sweep.trial[i])}<br>${parts.join("<br>")}`;
}

function points(sweep, x, y, more) {
  const best = new Set(sweep.best);
  return {
    x, y, mode: "markers", name: "trial", text: sweep.trial.map((_, i) => told(sweep, i)), hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
    marker: {
      color: sweep.trial.map((_, i) => colour(best.has(i) ? "poison" : "clean")), size: sweep.trial.map((_, i) => (best.has(i) ? 10 : sweep.trial.length > 150 ? 5 : 7)),
      opacity: sweep.trial.map((_, i) => (best.has(i) ? 1 : 0.65)), line: { width: 0 },
    }, ...more,
  };
}

function defaultPoint(x, y) {
  return { x: [x], y: [y], mode: "markers", name: "default", marker: { symbol: "diamond-open", size: 11, color: colour("ink"), line: { width: 2 } }, hovertemplate: `default<br>%{x:.4g}, %{y:.4g}<extra></extra>`, cliponaxis: false };
}

// Plotly's legend can't show the best point, which has another colour than its trace.
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
  const traces = [
    { x: at, y: sweep.so_far[i], mode: "lines", line: { shape: "hv", color: colour("poison"), width: 1.5 }, hovertemplate: "best so far %{y:.4g}<extra></extra>" },
    points(sweep, at, sweep.value[i]),
  ];
  // Trials without a result have no height: they get a strip of their own below the plot.
  const other = Object.entries(STATES).filter(([state]) => (sweep.others[state] || []).length);
  for (const [row, [state, [symbol, name]]] of other.entries()) {
    traces.push({
      x: sweep.others[state].map(Number), y: sweep.others[state].map(() => row), yaxis: "y2", mode: "markers", text: sweep.others[state],
      marker: { symbol, size: 8, color: colour(name), line: { width: 1.5, color: colour(name) } }, hovertemplate: `trial %{text}: ${state}<extra></extra>`,
    });
  }
  const strip = 0.05 * other.length;
  const start = sweep.default && sweep.default.value[i];
  const shapes = sweep.default ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: start, y1: start, line: { color: colour("ink"), width: 1.5, dash: "dash" } }] : [];
  const all = [...sweep.value[i], ...(sweep.default ? [start] : [])];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = 0.06 * (high - low || 1);
  const plot = make("div", "plot", null, place);
  return () => Plotly.newPlot(plot, traces, layout({
    showlegend: false, shapes, margin: { l: 52, r: 12, t: 8, b: 42 }, xaxis: axis("trial", { anchor: other.length ? "y2" : "y" }),
    yaxis: axis(wanted(objective), { domain: [other.length ? 0.04 + strip : 0, 1], range: [low - margin, high + margin] }), yaxis2: { domain: [0, strip || 0.01], range: [-0.6, other.length - 0.4], visible: false, fixedrange: true },
  }), config);
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
  const names = found.params.map(([title, n]) => plain(title) + (n < found.n ? ` <span style="font-size:10px">(${n} of ${found.n})</span>` : ""));
  const colours = ["clean", "cross", "poison", "good", "bad"];
  const traces = found.targets.map(([name, shares], k) => ({
    type: "bar", orientation: "h", name: `for ${plain(name)}`, y: names.map((_, i) => i), x: shares, marker: { color: colour(colours[k]), opacity: 0.8, line: { width: 0 } },
    customdata: names, hovertemplate: `%{customdata}: %{x:.2f} for ${plain(name)}<extra></extra>`,
  }));
  const plot = make("div", "plot", null, place);
  plot.style.height = `${Math.max(260, 70 + names.length * (8 + 9 * traces.length))}px`;
  if (found.params.some(([, n]) => n < found.n)) make("p", "dim", "(n of N): the parameter has a condition, and only n of the N finished trials have it.", place);
  return () => Plotly.newPlot(plot, traces, layout({
    margin: { l: 52, r: 12, t: 24, b: 42 }, showlegend: true, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    bargap: 0.3, xaxis: axis("share", { rangemode: "tozero" }), yaxis: axis("", { tickvals: names.map((_, i) => i), ticktext: names, autorange: "reversed", color: colour("ink"), showgrid: false }),
  }), config);
}

function drawOracle(grid, sweep, i, correlation) {
  const objective = sweep.objectives[i];
  const rho = correlation === null ? "No rank correlation: it takes at least three trials with different values." : `Rank correlation (Spearman) over the trials: ${correlation.toFixed(2)}${objective.direction === "minimize" ? "; lower is better, so \u22121 would be perfect" : "; 1 would be perfect"}.`;
  const place = panel(grid, `${objective.name} ${arrow(objective)} beside the oracle AUROC`, rho);
  key(place, sweep, false, false);
  const traces = [points(sweep, sweep.value[i], sweep.auroc)];
  if (sweep.default) traces.push(defaultPoint(sweep.default.value[i], sweep.default.auroc));
  const plot = make("div", "plot", null, place);
  return () => Plotly.newPlot(plot, traces, layout({ showlegend: false, margin: { l: 52, r: 12, t: 8, b: 42 }, xaxis: axis(wanted(objective)), yaxis: axis("AUROC (oracle)") }), config);
}

function drawPareto(grid, sweep, i, j) {
  const several = sweep.objectives.length > 2;
  const [x, y] = [sweep.objectives[i], sweep.objectives[j]];
  const place = panel(grid, `Pareto front: ${x.name} and ${y.name}`, `${x.name}: ${better(x)}; ${y.name}: ${better(y)}. ${sweep.best.length} trials on the front${several ? " of all objectives" : ""}: no other trial is better in all of them.`);
  key(place, sweep, false, false);
  const front = sweep.best.slice().sort((a, b) => sweep.value[i][a] - sweep.value[i][b]);
  // A step lies on the side of what a trial of the front has reached. The order of the points is
  // that of x, so that it depends on the direction of x alone.
  const line = { x: front.map((k) => sweep.value[i][k]), y: front.map((k) => sweep.value[j][k]), mode: "lines", hoverinfo: "skip", line: { color: colour("poison"), width: 1.5, shape: x.direction === "maximize" ? "vh" : "hv" } };
  // The front of more than two objectives is no line in a plot of two of them.
  const traces = [...(several ? [] : [line]), points(sweep, sweep.value[i], sweep.value[j])];
  if (sweep.default) traces.push(defaultPoint(sweep.default.value[i], sweep.default.value[j]));
  const plot = make("div", "plot", null, place);
  return () => Plotly.newPlot(plot, traces, layout({ showlegend: false, margin: { l: 52, r: 12, t: 8, b: 42 }, xaxis: axis(wanted(x)), yaxis: axis(wanted(y)) }), config);
}

function drawParallel(place, sweep) {
  const { axes, order } = sweep.parallel;
  make("h4", "", "Parallel axes", place);
  make("p", "dim", `Each line is a finished trial, drawn stronger the better its ${sweep.objectives[0].name} is. On the axes of the objectives, better is up. "Not used": the trial does not have the parameter. Point at a line to highlight it.`, place);
  key(place, sweep, true, false);
  const scroll = make("div", "sweep-wide", null, place);
  const plot = make("div", "", null, scroll);
  plot.style.cssText = `height: 380px; min-width: ${100 * axes.length}px`;
  const best = new Set(sweep.best);
  const xs = axes.map((_, k) => k);
  const heights = (i) => axes.map((one) => one.at[i]);
  // Worst first: what is drawn later lies on top.
  const rest = order.filter((i) => !best.has(i));
  const lines = (name, members, line, opacity) => ({
    x: members.flatMap(() => [...xs, null]), y: members.flatMap((i) => [...heights(i), null]), text: members.flatMap((i) => [...xs.map(() => told(sweep, i)), ""]),
    customdata: members.flatMap((i) => [...xs.map(() => i), -1]), mode: "lines+markers", marker: { size: rest.length > 100 ? 2.5 : 4, color: line.color }, name, line, opacity, hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
  });
  const traces = [];
  for (let band = 0; band < BANDS; band += 1) {
    const members = rest.slice(Math.floor(rest.length * band / BANDS), Math.floor(rest.length * (band + 1) / BANDS));
    // Many lines add up, so that weak ones must be fainter the more there are.
    if (members.length) traces.push(lines("trial", members, { color: colour("clean"), width: rest.length > 100 ? 1 : 1.4 }, rest.length > 100 ? 0.06 + 0.6 * (band / (BANDS - 1)) ** 3 : 0.1 + 0.7 * (band / (BANDS - 1)) ** 2));
  }
  traces.push(lines("best", order.filter((i) => best.has(i)), { color: colour("poison"), width: 2.2 }, 0.95));
  if (sweep.default) {
    traces.push({ x: xs, y: axes.map((one) => one.default), mode: "lines+markers", connectgaps: false, line: { color: colour("ink"), width: 1.8, dash: "dash" }, marker: { symbol: "diamond-open", size: 7, color: colour("ink") }, hovertemplate: "default<extra></extra>", cliponaxis: false });
  }
  // The line under the pointer is a trace of its own: only that one changes, not all lines.
  const followed = traces.length;
  traces.push({ x: [], y: [], mode: "lines", line: { color: colour("ink"), width: 3 }, hoverinfo: "skip", cliponaxis: false });
  const title = (one) => (one.objective === undefined ? plain(one.title) : `<b>${one.objective === null ? plain(one.title) : wanted(sweep.objectives[one.objective])}</b>`);
  // One y axis carries all: each parallel axis gets its ticks as annotations.
  const labels = axes.flatMap((one, k) => [
    { x: k, y: 1.06, text: title(one), showarrow: false, yanchor: "bottom", font: { size: 12, color: colour("ink") } },
    ...one.ticks.map(([height, text]) => ({ x: k, y: height, text: plain(text), showarrow: false, xanchor: "left", xshift: 4, bgcolor: colour("paper"), opacity: 0.85, borderpad: 1, font: { size: 10.5, color: colour("dim") } })),
  ]);
  const rules = axes.map((_, k) => ({ type: "line", x0: k, x1: k, y0: 0, y1: 1, layer: "below", line: { color: colour("dim"), width: 1 } }));
  const bare = { visible: false, fixedrange: true };
  Plotly.newPlot(plot, traces, layout({
    showlegend: false, margin: { l: 24, r: 70, t: 6, b: 6 }, annotations: labels, shapes: rules, hovermode: "closest",
    xaxis: { ...bare, range: [-0.15, axes.length - 0.85] }, yaxis: { ...bare, range: [-0.2, 1.16] },
  }), config);
  plot.on("plotly_hover", ({ points: [point] }) => {
    // -1 stands for the gap between two lines of a trace.
    if (point.customdata >= 0) Plotly.restyle(plot, { x: [xs], y: [heights(point.customdata)] }, [followed]);
  });
  plot.on("plotly_unhover", () => Plotly.restyle(plot, { x: [[]], y: [[]] }, [followed]));
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
