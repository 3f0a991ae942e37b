// What is asked for: a view and filters, all of it in the address, so that a link says it all.
const CHOICES = [["ds", "data set", "dataset"], ["net", "network", "network"], ["atk", "attack", "attack"], ["grp", "kind of attack", "group"], ["rate", "rate", "rate"], ["role", "role", "role"], ["dev", "device", "device"], ["st", "status", "status"]];
const MARKS = [["or", "with oracles", false], ["tu", "with tuned ones", true]];
const BLANK = { v: "ranking", q: "", n: "1", ...Object.fromEntries(CHOICES.map(([key]) => [key, ""])), or: "0", tu: "1" };
const state = { ...BLANK };
const CHANGES = new Set(["ds", "net", "atk", "grp", "rate", "role", "dev", "st", "or", "tu", "q", "n"]);

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(state)) if (!(key in BLANK)) delete state[key];
  Object.assign(state, BLANK, Object.fromEntries(asked));
  // An address may ask for a view that there is none of.
  if (!VIEWS[state.v]) state.v = BLANK.v;
}

function writeAddress() {
  const said = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== "" && value !== BLANK[key]));
  history.replaceState(null, "", `#${said}`);
}

const isDefault = () => [...CHANGES].every((key) => state[key] === BLANK[key]);

let passing = [];
let texts = null; // of each row, made when words are asked for
const textOf = (row) => ["dataset", "network", "trainer", "attack", "method", "role", "status"].map((name) => rows[name](row)).join(" ").toLowerCase();

// The rows that pass, in their order. Words are compared by their places, which are numbers.
function filterRows() {
  const wanted = CHOICES.filter(([key]) => state[key] !== "").map(([key, , name]) => [rows[name].places, rows[name].words.findIndex((word) => String(word) === state[key])]);
  const least = Number(state.n) || 1;
  const asked = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (asked.length && !texts) texts = Array.from({ length: ROWS }, (_, row) => textOf(row));
  passing = [];
  for (let row = 0; row < ROWS; row += 1) {
    if (!wanted.every(([places, place]) => places[row] === place)) continue;
    if (state.or === "0" && rows.oracle(row)) continue;
    if (state.tu === "0" && rows.tuned(row)) continue;
    if (rows.seeds(row) < least) continue;
    if (asked.length && !asked.every((word) => texts[row].includes(word))) continue;
    passing.push(row);
  }
  return passing;
}

// A label around what it names; the words come first, but for a mark.
function labelled(parent, text, tag, more) {
  const label = make("label", more || "", more ? null : text, parent);
  const field = make(tag, "", null, label);
  if (more) label.append(text);
  return field;
}

function makeFilters(form) {
  for (const [key, title, name] of CHOICES) {
    const select = labelled(form, title, "select");
    select.dataset.key = key;
    make("option", "", "all", select).value = "";
    for (const word of rows[name].words) if (word !== "") make("option", "", String(word), select).value = String(word);
  }
  const seeds = labelled(form, "seeds, at least", "input");
  Object.assign(seeds, { type: "number", min: 1, max: 99 });
  seeds.dataset.key = "n";
  const text = labelled(form, "words (press /)", "input");
  Object.assign(text, { type: "search", placeholder: "badnets anp" });
  text.dataset.key = "q";
  for (const [key, title] of MARKS) {
    const box = labelled(form, title, "input", "mark");
    box.type = "checkbox";
    box.dataset.key = key;
  }
  for (const [title, act] of [["reset", reset], ["copy link", copyLink], ["copy CSV", copyTable]]) {
    const button = make("button", "", title, form);
    button.type = "button";
    button.addEventListener("click", () => act(button));
  }
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    state[target.dataset.key] = target.type === "checkbox" ? String(Number(target.checked)) : target.value;
    writeAddress();
    drawAll();
  });
}

function showFilters(form) {
  for (const field of form.querySelectorAll("[data-key]")) {
    if (field.type === "checkbox") field.checked = state[field.dataset.key] === "1";
    else if (field.value !== state[field.dataset.key]) field.value = state[field.dataset.key];
  }
}

function reset() {
  const view = state.v;
  for (const key of Object.keys(state)) delete state[key];
  Object.assign(state, BLANK, { v: view });
  writeAddress();
  drawAll();
}

function said(button, text) {
  const before = button.textContent;
  button.textContent = text;
  setTimeout(() => { button.textContent = before; }, 1200);
}

function copy(button, text) {
  // A page from a file may have no clipboard: then a field with the text is selected.
  const done = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject(new Error("no clipboard"));
  done.then(() => said(button, "copied"), () => {
    const field = make("textarea", "", text, document.body);
    field.select();
    said(button, document.execCommand("copy") ? "copied" : "could not copy");
    field.remove();
  });
}

const copyLink = (button) => copy(button, location.href);
const copyTable = (button) => copy(button, csvOf(passing));

function csvOf(some) {
  // A text that begins like a formula must stay a text in a spreadsheet.
  const quoted = (value) => (value === null || value === undefined ? "" : /^[=+@-]/.test(String(value)) && Number.isNaN(Number(value)) ? `"'${String(value).replaceAll('"', '""')}"` : /[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const names = ["dataset", "network", "trainer", "attack", "rate", "method", "role", "seeds", "status"];
  const numbers = data.measures.flatMap(({ name }) => [name, `${name}_low`, `${name}_high`]);
  const lines = some.map((row) => [...names.map((name) => rows[name](row)), ...data.measures.flatMap(({ name }) => ["value", "low", "high"].map((part) => rows[name][part](row)))]);
  return [[...names, ...numbers], ...lines].map((line) => line.map(quoted).join(",")).join("\n");
}
