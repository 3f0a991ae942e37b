// The rows as a table that draws only what is seen, and the detail of one of them.
const ROW_HEIGHT = 30;
const DRAWN = 40;
const NAMES = ["dataset", "network", "trainer", "attack", "rate", "method", "role", "seeds", "status"];
const COLUMNS = [
  ...NAMES.map((name) => ({ name, title: name, text: (row) => String(rows[name](row)), key: (row) => rows[name](row), numeric: name === "rate" || name === "seeds" })),
  ...data.measures.map((measure) => ({
    name: measure.name, title: measure.title + (measure.group === "defended" && measure.name !== "der" ? " after" : ""), numeric: true, help: measure.help,
    key: (row) => rows[measure.name].value(row), text: (row) => shownShare(rows[measure.name].value(row)),
    small: (row) => (rows[measure.name].low(row) === null ? "" : `[${shownShare(rows[measure.name].low(row))}, ${shownShare(rows[measure.name].high(row))}]`),
  })),
  ...["seconds", "gpu_seconds"].map((name) => ({ name, title: name.replace("_", " "), numeric: true, key: (row) => (Number.isNaN(rows[name](row)) ? null : rows[name](row)), text: (row) => (Number.isNaN(rows[name](row)) ? "\u2013" : rows[name](row).toFixed(1)) })),
];
const hidden = new Set(["trainer", "gpu_seconds"]);
const table = { order: [], sort: null, down: false, selected: -1 };

function makeRows(place) {
  place.hidden = false;
  const chooser = make("details", "", null, place);
  make("summary", "", "Columns", chooser);
  const boxes = make("div", "columns", null, chooser);
  for (const column of COLUMNS) {
    const label = make("label", "", null, boxes);
    const box = make("input", "", null, label);
    box.type = "checkbox";
    box.checked = !hidden.has(column.name);
    label.append(` ${column.title}`);
    box.addEventListener("change", () => { if (box.checked) hidden.delete(column.name); else hidden.add(column.name); drawHead(); drawRows(); });
  }
  table.count = make("p", "dim", "", place);
  table.scroll = make("div", "rows", null, place);
  table.scroll.tabIndex = 0;
  table.scroll.setAttribute("role", "region");
  table.scroll.setAttribute("aria-label", "Rows; arrow keys choose one, Enter opens it");
  const element = make("table", "", null, table.scroll);
  table.element = element;
  table.head = make("thead", "", null, element);
  table.body = make("tbody", "", null, element);
  table.scroll.addEventListener("scroll", () => requestAnimationFrame(drawRows));
  table.scroll.addEventListener("keydown", chooseByKey);
  drawHead();
}

const visible = () => COLUMNS.filter((column) => !hidden.has(column.name));

function drawHead() {
  table.head.replaceChildren();
  const line = make("tr", "", null, table.head);
  for (const column of visible()) {
    const head = make("th", column.numeric ? "number" : "", null, line);
    head.scope = "col";
    if (column.help) head.title = column.help;
    if (table.sort === column.name) head.setAttribute("aria-sort", table.down ? "descending" : "ascending");
    const button = make("button", "", column.title, head);
    button.type = "button";
    button.addEventListener("click", () => { table.down = table.sort === column.name && !table.down; table.sort = column.name; sortRows(); drawHead(); drawRows(); });
  }
}

function sortRows() {
  table.order = passing.slice();
  const column = COLUMNS.find(({ name }) => name === table.sort);
  if (!column) return;
  const keys = new Map(table.order.map((row) => [row, column.key(row)]));
  const sign = table.down ? -1 : 1;
  table.order.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null); // missing values come last in both directions
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

function drawRows() {
  const total = table.order.length;
  const first = Math.max(0, Math.min(total - DRAWN, Math.floor(table.scroll.scrollTop / ROW_HEIGHT) - 8));
  const last = Math.min(total, first + DRAWN);
  const columns = visible();
  const spacer = (height) => {
    const line = document.createElement("tr");
    line.setAttribute("aria-hidden", "true");
    const cell = make("td", "", null, line);
    cell.colSpan = columns.length;
    cell.style.cssText = `height: ${height}px; padding: 0; border: 0`;
    line.style.height = `${height}px`;
    return line;
  };
  const drawn = [spacer(first * ROW_HEIGHT)];
  for (let at = first; at < last; at += 1) drawn.push(rowLine(at, columns));
  drawn.push(spacer((total - last) * ROW_HEIGHT));
  table.body.replaceChildren(...drawn);
  table.element.setAttribute("aria-rowcount", String(total + 1));
}

function rowLine(at, columns) {
  const row = table.order[at];
  const line = document.createElement("tr");
  line.className = "drawn-row";
  line.setAttribute("aria-rowindex", String(at + 2));
  if (at === table.selected) line.setAttribute("aria-selected", "true");
  for (const column of columns) {
    const cell = make("td", column.numeric ? "number" : "", column.text(row), line);
    const small = column.small && column.small(row);
    if (small) make("small", "", small, cell);
    if (column.name === "status" && rows.status(row) !== "ok") cell.className = `status ${rows.status(row)}`;
    if (column.name === "attack" && rows.weak(row)) make("small", "badge", "attack failed", cell);
  }
  line.addEventListener("click", () => choose(at, true));
  return line;
}

function choose(at, open) {
  if (at < 0 || at >= table.order.length) return;
  table.selected = at;
  const top = at * ROW_HEIGHT;
  const { scrollTop, clientHeight } = table.scroll;
  if (top < scrollTop) table.scroll.scrollTop = top;
  if (top + 3 * ROW_HEIGHT > scrollTop + clientHeight) table.scroll.scrollTop = top + 3 * ROW_HEIGHT - clientHeight;
  drawRows();
  if (open) showDetail(document.getElementById("detail"), table.order[at]);
}

function chooseByKey(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 };
  if (event.target.closest("button")) return;
  if (event.key in steps) choose(Math.max(0, Math.min(table.order.length - 1, table.selected + steps[event.key])), false);
  else if (event.key === "Home") choose(0, false);
  else if (event.key === "End") choose(table.order.length - 1, false);
  else if (event.key === "Enter") choose(table.selected, true);
  else return;
  event.preventDefault();
}

// Details are scripts that call one function: a page from a file can't read files in another way.
const shards = new Map();
window.raybdDetails = (shard, found) => { shards.get(shard).told(found); };

function shardOf(cell) {
  const shard = Math.floor(cell / data.shard);
  if (!shards.has(shard)) {
    const entry = {};
    entry.found = new Promise((resolve, reject) => {
      entry.told = resolve;
      const script = document.createElement("script");
      script.src = `details-${String(shard).padStart(2, "0")}.js`;
      script.addEventListener("error", () => { shards.delete(shard); reject(new Error(`${script.getAttribute("src")} is not beside the page`)); });
      document.head.append(script);
    });
    shards.set(shard, entry);
  }
  return shards.get(shard).found.then((found) => found[cell % data.shard]);
}

function showDetail(place, row) {
  place.replaceChildren();
  make("h3", "", `${rows.method(row)} on ${rows.attack(row)} at ${rows.rate(row)}, ${rows.dataset(row)}, ${rows.network(row)}`, place);
  const used = data.measures.filter(({ name }) => rows[name].value(row) !== null);
  const all = Array.from({ length: firstCell[row + 1] - firstCell[row] }, (_, at) => firstCell[row] + at);
  makeTable(place, ["seed", "status", ...used.map(({ title, group, name }) => title + (group === "defended" && name !== "der" ? " after" : "")), "seconds"], all.map((cell) => [String(cells.seed(cell)), cells.status(cell), ...used.map(({ name }) => shownShare(cells[name](cell))), Number.isNaN(cells.seconds(cell)) ? "\u2013" : cells.seconds(cell).toFixed(1)]), "Single seeds");
  for (const cell of all) {
    const text = make("pre", "", "\u2026", place);
    text.tabIndex = 0;
    shardOf(cell).then((found) => { text.textContent = Object.entries(found).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}`).join("\n"); }, (error) => { text.textContent = error.message; });
  }
}
