// Draws charts as SVG: lines, marks, bars, whiskers and bands over up to two axes each way.
// Colours are CSS variables, so that a chart follows the page into dark mode.
const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
const LETTER = 7; // rough width of a letter, in pixels
const SYMBOLS = {
  circle: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  diamond: (r) => `M0 ${-r}L${r} 0L0 ${r}L${-r} 0Z`,
  square: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  "triangle-up": (r) => `M0 ${-r}L${r} ${r}H${-r}Z`,
  "triangle-down": (r) => `M0 ${r}L${r} ${-r}H${-r}Z`,
  "x-thin": (r) => `M${-r} ${-r}L${r} ${r}M${-r} ${r}L${r} ${-r}`,
};
const PAINT = ["fill", "stroke", "opacity", "strokeWidth", "strokeDasharray", "fillOpacity"];

function svg(tag, attributes, parent, title) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (PAINT.includes(name)) element.style[name] = value;
    else element.setAttribute(name, value);
  }
  if (title) svg("title", {}, element).textContent = title;
  parent.append(element);
  return element;
}

function words(parent, text, x, y, anchor, more) {
  const element = svg("text", { x, y, "text-anchor": anchor, fill: colour("dim"), ...more }, parent);
  element.textContent = text;
  return element;
}

const number = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4))));

// Round numbers between two ends, about `count` of them.
function steps(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => one >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

function decades(low, high) {
  const factors = high / low > 300 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of factors) if (factor * 10 ** power >= low * 0.999 && factor * 10 ** power <= high * 1.001) found.push(factor * 10 ** power);
  }
  return found;
}

// The ends of an axis: as asked for, or such that all of its traces fit.
function ends(axis, traces, way) {
  const bars = traces.some((trace) => trace.type === "bar" && (trace.orientation === "h") === (way === "x"));
  if (axis.range) return axis.range;
  const spread = traces.flatMap((trace) => [trace[way], ...(trace[`error${way}`] || []), ...(way === "y" ? trace.band || [] : [])]).flat();
  const known = spread.filter((value) => value !== null && value !== undefined && (!axis.log || value > 0));
  if (bars || axis.zero) known.push(0);
  if (!known.length) return axis.log ? [0.1, 1] : [0, 1];
  let low = Infinity;
  let high = -Infinity;
  for (const value of known) { low = Math.min(low, value); high = Math.max(high, value); }
  if (axis.log) return [low / 1.15, high * 1.15];
  const margin = 0.05 * (high - low) || 0.5;
  return [low === 0 && bars ? 0 : low - margin, high + margin];
}

function scale(axis, [low, high], from, to) {
  const way = axis.log ? Math.log10 : (value) => value;
  const [start, end] = [way(low), way(high)];
  const [first, last] = axis.reversed ? [to, from] : [from, to];
  return (value) => first + (last - first) * ((way(value) - start) / (end - start || 1));
}

function ticksOf(axis, [low, high], pixels) {
  if (axis.tickvals) return axis.tickvals.map((value, i) => [value, axis.ticktext[i]]);
  const found = axis.log ? decades(low, high) : steps(low, high, pixels);
  return found.map((value) => [value, number(value)]);
}

function path(xs, ys, trace) {
  let text = "";
  let pen = "M";
  xs.forEach((x, i) => {
    if (x === null || ys[i] === null) { pen = "M"; return; }
    // A step goes along first, or up first.
    if (pen === "L" && trace.line && trace.line.shape === "hv") text += `H${x.toFixed(1)}`;
    if (pen === "L" && trace.line && trace.line.shape === "vh") text += `V${ys[i].toFixed(1)}`;
    text += `${pen}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    pen = "L";
  });
  return text;
}

const each = (value, i) => (Array.isArray(value) ? value[i] : value);
const DASHES = { dash: "5 4", dot: "2 3" };

function drawTrace(layer, trace, xAt, yAt, baseline) {
  const at = (scaled, value) => (value === null || value === undefined ? null : scaled(value));
  const xs = trace.x.map((value) => at(xAt, value));
  const ys = trace.y.map((value) => at(yAt, value));
  const told = (i) => (trace.hover ? trace.hover(i) : undefined);
  const mode = trace.mode || "";
  if (trace.type === "bar") return drawBars(layer, trace, xs, ys, xAt, yAt, baseline, told);
  if (trace.band) {
    const [low, high] = trace.band.map((values) => values.map((value) => at(yAt, value)));
    const there = xs.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
    const points = [...there.map((i) => `${xs[i]},${low[i]}`), ...there.reverse().map((i) => `${xs[i]},${high[i]}`)];
    svg("polygon", { points: points.join(" "), fill: trace.line.color, opacity: 0.18 }, layer);
  }
  if (mode.includes("lines")) {
    const d = path(xs, ys, trace);
    if (trace.followed) svg("path", { d, class: "reach" }, layer, trace.followed);
    svg("path", { d, class: "line", fill: "none", stroke: trace.line.color, strokeWidth: trace.line.width || 1.5, strokeDasharray: DASHES[trace.line.dash], opacity: trace.opacity }, layer);
  }
  for (const [way, values] of [["x", trace.errorx], ["y", trace.errory]]) {
    if (!values) continue;
    xs.forEach((x, i) => {
      if (x === null || ys[i] === null || values[0][i] === null || values[1][i] === null) return;
      const [a, b] = [values[0][i], values[1][i]].map(way === "x" ? xAt : yAt);
      svg("path", { d: way === "x" ? `M${a} ${ys[i]}H${b}` : `M${x} ${a}V${b}`, fill: "none", stroke: each(trace.marker.color, i), strokeWidth: 1.5, opacity: 0.7 }, layer);
    });
  }
  if (mode.includes("markers")) xs.forEach((x, i) => { if (x !== null && ys[i] !== null) drawMark(layer, trace.marker, i, x, ys[i], told(i)); });
  if (mode.includes("text")) xs.forEach((x, i) => { if (x !== null && ys[i] !== null) words(layer, trace.text[i], x + 7, ys[i] - 5, "start", { class: "small" }); });
  return undefined;
}

function drawMark(layer, marker, i, x, y, title) {
  const name = each(marker.symbol, i) || "circle";
  const open = name.endsWith("-open") || name === "x-thin";
  const line = marker.line || {};
  const shade = each(marker.color, i);
  svg("path", {
    d: SYMBOLS[name.replace("-open", "")]((each(marker.size, i) || 6) / 2), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    fill: open ? "transparent" : shade, stroke: open ? shade : line.color || "none", strokeWidth: open ? 1.8 : line.width || 0, opacity: each(marker.opacity, i),
  }, layer, title);
}

function drawBars(layer, trace, xs, ys, xAt, yAt, baseline, told) {
  const flat = trace.orientation === "h";
  const half = Math.abs(flat ? yAt(trace.width) - yAt(0) : xAt(trace.width) - xAt(0)) / 2;
  const shift = (trace.shift || 0) * 2 * half;
  xs.forEach((x, i) => {
    if (x === null || ys[i] === null) return;
    const box = flat ? { x: Math.min(x, baseline), y: ys[i] - half + shift, width: Math.abs(x - baseline), height: 2 * half } : { x: x - half + shift, y: Math.min(ys[i], baseline), width: 2 * half, height: Math.abs(baseline - ys[i]) };
    svg("rect", { ...box, fill: each(trace.marker.color, i), opacity: trace.marker.opacity || 0.8 }, layer, told(i));
  });
}

function drawGrid(layer, axis, span, at, ticks, other, way) {
  const [low, high] = other;
  for (const [value, text] of ticks) {
    const place = at(value);
    if (axis.grid !== false) svg("path", { d: way === "x" ? `M${place} ${low}V${high}` : `M${low} ${place}H${high}`, stroke: colour("line"), strokeWidth: 1, fill: "none" }, layer);
    if (way === "x") words(layer, text, place, high + 15, "middle");
    else words(layer, text, low - 6, place + 4, "end", axis.strong ? { fill: colour("ink") } : {});
  }
  const middle = (span[0] + span[1]) / 2;
  if (axis.title && way === "x") words(layer, axis.title, middle, high + 33, "middle");
  if (axis.title && way === "y") words(layer, axis.title, 0, 0, "middle", { transform: `translate(12 ${middle}) rotate(-90)` });
}

function drawLegend(place, traces) {
  const legend = make("div", "legend", null, place);
  for (const trace of traces) {
    if (!trace.name || trace.showlegend === false) continue;
    const entry = make("span", "", null, legend);
    const swatch = make("i", trace.type === "bar" ? "" : "round", null, entry);
    const marker = trace.marker || {};
    swatch.style.background = each(marker.color, 0) || trace.line.color;
    if (marker.line && marker.line.color) swatch.style.outline = `1px solid ${marker.line.color}`;
    entry.append(trace.name);
  }
}

function drawInto(place, traces, layout) {
  place.replaceChildren();
  if (layout.showlegend) drawLegend(place, traces);
  const axes = { x: layout.xaxis || {}, x2: layout.xaxis2, y: layout.yaxis || {}, y2: layout.yaxis2 };
  const width = Math.max(place.clientWidth, layout.least || 0, 160);
  const height = layout.height || 260;
  const of = (name) => traces.filter((trace) => (trace[`${name[0]}axis`] || name[0]) === name);
  const range = {};
  const ticks = {};
  const inner = { top: layout.top || 10, bottom: height - (axes.x.hidden ? 8 : axes.x.title ? 42 : 24), right: width - (layout.right || 14), left: 10 };
  for (const name of ["y", "y2", "x", "x2"]) {
    if (!axes[name]) continue;
    range[name] = ends(axes[name], of(name), name[0]);
    const share = axes[name].domain || [0, 1];
    const pixels = (name[0] === "y" ? (inner.bottom - inner.top) / 42 : width / 85) * (share[1] - share[0]);
    ticks[name] = axes[name].hidden ? [] : ticksOf(axes[name], range[name], pixels);
    if (name[0] === "y" && ticks[name].length) inner.left = Math.max(inner.left, Math.min(width * 0.45, LETTER * Math.max(...ticks[name].map(([, text]) => String(text).length)) + 12) + (axes[name].title ? 20 : 0));
  }
  const spans = {};
  const scales = {};
  for (const name of Object.keys(range)) {
    const [start, end] = axes[name].domain || [0, 1];
    spans[name] = name[0] === "x" ? [inner.left + start * (inner.right - inner.left), inner.left + end * (inner.right - inner.left)] : [inner.bottom - start * (inner.bottom - inner.top), inner.bottom - end * (inner.bottom - inner.top)];
    scales[name] = scale(axes[name], range[name], ...spans[name]);
  }
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": layout.label || "chart" }, place);
  for (const name of Object.keys(range)) {
    const other = name[0] === "x" ? [spans.y[1], inner.bottom] : spans[name === "y2" ? "x" : "x"];
    if (name === "y" && axes.x2) for (const along of ["x", "x2"]) drawGrid(root, along === "x" ? axes.y : { ...axes.y, title: "" }, spans.y, scales.y, along === "x" ? ticks.y : ticks.y.map(([value]) => [value, ""]), spans[along], "y");
    else drawGrid(root, axes[name], spans[name], scales[name], ticks[name], other, name[0]);
  }
  for (const { x0, x1, y0, y1, line } of layout.shapes || []) {
    const place2 = (value, span, at) => (value === "low" ? span[0] : value === "high" ? span[1] : at(value));
    svg("path", { d: `M${place2(x0, spans.x, scales.x)} ${place2(y0, spans.y, scales.y)}L${place2(x1, spans.x, scales.x)} ${place2(y1, spans.y, scales.y)}`, stroke: line.color, strokeWidth: line.width || 1, strokeDasharray: DASHES[line.dash], fill: "none" }, root);
  }
  for (const trace of traces) {
    const [x, y] = [trace.xaxis || "x", trace.yaxis || "y"];
    drawTrace(svg("g", { class: "trace" }, root), trace, scales[x], scales[y], trace.orientation === "h" ? scales[x](0) : scales[y](0));
  }
  for (const { x, y, text, anchor, shift, bold, ink } of layout.annotations || []) {
    words(root, text, scales.x(x) + (shift || 0), y === "top" ? inner.top + 10 : scales.y(y) + 3, anchor || "middle", { class: bold ? "small bold" : "small", fill: colour(ink ? "ink" : "dim") });
  }
}

// Draws now, and again when the place gets another width.
function drawPlot(place, traces, layout) {
  let width = place.clientWidth;
  drawInto(place, traces, layout);
  new ResizeObserver(() => {
    if (place.clientWidth === width || !place.clientWidth) return;
    width = place.clientWidth;
    drawInto(place, traces, layout);
  }).observe(place);
}
