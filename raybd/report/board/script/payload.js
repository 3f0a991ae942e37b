// Unpacks the columns of the page. A column of words has the words and their places.
const MISSING = 65535;
const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

function unpack(column) {
  const bytes = Uint8Array.from(atob(column.data), (letter) => letter.charCodeAt(0));
  return new TYPES[column.type](bytes.buffer);
}

// A function from a row to its value, with the column behind it.
function reader(column) {
  const places = unpack(column);
  if (column.words) {
    const found = (row) => column.words[places[row]];
    return Object.assign(found, { words: column.words, places });
  }
  return Object.assign((row) => places[row], { places });
}

function shareReader(column) {
  const places = unpack(column);
  return (row) => (places[row] === MISSING ? null : places[row] / 10000);
}

const measureReaders = (measure) => ({ value: shareReader(measure.value), low: shareReader(measure.low), high: shareReader(measure.high) });
const mapped = (from, change) => Object.fromEntries(Object.entries(from).map(([name, value]) => [name, change(value)]));

const rows = { ...mapped(Object.fromEntries(Object.entries(data.rows).filter(([name]) => name !== "measures")), reader), ...mapped(data.rows.measures, measureReaders) };
const cells = { ...mapped(Object.fromEntries(Object.entries(data.cells).filter(([name]) => name !== "measures")), reader), ...mapped(data.cells.measures, shareReader) };
const ROWS = rows.seeds.places.length;
const CELLS = cells.row.places.length;
const measureOf = Object.fromEntries(data.measures.map((measure) => [measure.name, measure]));
const trackOf = Object.fromEntries(data.tracks.map((track) => [track.name, track]));

// The first cell of each row, and one past the last.
const firstCell = new Uint32Array(ROWS + 1);
for (let cell = 0; cell < CELLS; cell += 1) firstCell[cells.row(cell) + 1] = cell + 1;

// What a row's method is called in a track; null if it is not in it.
function methodIn(track, row) {
  if (!rows.tracks(row).split(" ").includes(track.name)) return null;
  return rows.method(row) + (track.name === "defenses" ? rows.ending(row) : "");
}

const shownShare = (value) => (value === null || value === undefined ? "\u2013" : value.toFixed(3));
const shownEstimate = (found) => {
  if (!found) return "\u2013";
  const [value, low, high] = found;
  return low === null ? shownShare(value) : `${shownShare(value)} [${shownShare(low)}, ${shownShare(high)}]`;
};
const average = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const distinct = (values) => [...new Set(values)];

// A table of texts; a cell may be a function that fills its element.
function makeTable(parent, titles, body, label, className) {
  const scroll = make("div", "scroll", null, parent);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", label);
  const table = make("table", className || "", null, scroll);
  const head = make("tr", "", null, make("thead", "", null, table));
  for (const title of titles) make("th", "", title, head).scope = "col";
  const rest = make("tbody", "", null, table);
  for (const texts of body) {
    const line = make("tr", "", null, rest);
    texts.forEach((text, at) => {
      const place = make(at === 0 ? "th" : "td", "", typeof text === "function" ? null : text, line);
      if (at === 0) place.scope = "row";
      if (typeof text === "function") text(place);
    });
  }
  return table;
}
