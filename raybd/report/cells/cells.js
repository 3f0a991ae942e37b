// Draws a cell, an attack, and the victims before and after a defense.
function drawHistogram(place, cell) {
  const { low, width, counts, tails } = cell.histogram;
  const roles = ROLES.filter((role) => counts[role]);
  const traces = roles.map((role) => {
    // Shares of each role, because poison is rare: its counts would vanish beside the clean ones.
    const total = counts[role].reduce((sum, n) => sum + n, 0);
    const x = counts[role].map((_, i) => low + width * (i + 0.5));
    const y = counts[role].map((n) => 100 * n / total);
    return { type: "bar", name: `${role} (${total.toLocaleString("en")})`, x, y, width, marker: { color: colour(role), opacity: 0.62 }, hover: (i) => `${number(x[i])}: ${counts[role][i]} ${role} (${y[i].toFixed(1)} %)` };
  });
  const limit = cell.threshold.value;
  const shapes = limit === null ? [] : [{ x0: limit, x1: limit, y0: "low", y1: "high", line: { color: colour("ink"), width: 1.5, dash: "dash" } }];
  // The label is on the side that has more room.
  const right = limit > low + width * 40;
  const annotations = limit === null ? [] : [{ x: limit, y: "top", text: cell.threshold.varies ? "median threshold" : "threshold", anchor: right ? "end" : "start", shift: right ? -5 : 5 }];
  const label = `Histogram of suspicion: ${roles.map((role, i) => traces[i].name).join(", ")}; threshold ${cell.threshold.text}`;
  drawPlot(place, traces, { showlegend: true, shapes, annotations, label, xaxis: axis(tails ? "suspicion (end bins hold the tails)" : "suspicion", { range: [low, low + width * counts[roles[0]].length], grid: false }), yaxis: axis("% of each role") });
}

function drawRoc(place, cell) {
  const line = { x: cell.roc.fpr, y: cell.roc.tpr, mode: "lines", line: { color: colour("poison"), width: 2 } };
  const chance = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: colour("dim"), width: 1, dash: "dot" } };
  const point = cell.point && { x: [cell.point[0]], y: [cell.point[1]], mode: "markers", marker: { color: colour("ink"), size: 9, line: { color: colour("paper"), width: 1.5 } }, hover: () => `at its threshold: FPR ${cell.point[0].toFixed(3)}, TPR ${cell.point[1].toFixed(3)}` };
  // A margin, so that a curve along the edge is not cut in half.
  const range = [-0.01, 1.01];
  const told = cell.point ? `; at its threshold FPR ${cell.point[0].toFixed(3)}, TPR ${cell.point[1].toFixed(3)}` : "";
  drawPlot(place, [chance, line, point].filter(Boolean), { label: `ROC curve${told}`, xaxis: axis("FPR", { range }), yaxis: axis("TPR", { range }) });
}

function legend(parent, roles) {
  const place = make("div", "legend", null, parent);
  for (const role of roles) make("i", "", null, make("span", "", role, place)).style.background = `var(--${role})`;
  // make() appends, and the colour belongs before the word.
  for (const entry of place.children) entry.prepend(entry.lastChild);
}

function picture(parent, image, role, title) {
  const figure = make("figure", role, null, parent);
  const img = make("img", "", null, figure);
  img.src = data.images[image];
  img.alt = img.title = title;
  return make("figcaption", "", null, figure);
}

// Pictures in rows that may be wider than the page: the keyboard must reach what is beyond its edge.
function stripOf(parent) {
  const strip = make("div", "strip", null, parent);
  strip.tabIndex = 0;
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Pictures");
  return strip;
}

function drawSeen(article, cell) {
  const names = Object.keys(cell.seen);
  if (!names.length) return;
  const captions = cell.seen_captions;
  const compared = "true trigger" in cell.seen ? ", and what the attack changed in an image" : "";
  make("h4", "", captions.length ? "What the detector sees: images without and with the trigger" : `What the scanner found${compared}`, article);
  if (captions.length) legend(article, ROLES.filter((role) => captions.some((caption) => caption[0] === role)));
  const strip = stripOf(article);
  for (const name of names) {
    make("span", "", name, strip);
    const gallery = make("div", "gallery", null, strip);
    cell.seen[name].forEach((image, i) => {
      const [role, score] = captions[i] || ["", null];
      // The pictures of an image lie one below the other: its score is under the last one.
      const caption = picture(gallery, image, role, score === null ? name : `${name}, ${role}, score ${score}`);
      if (score !== null && name === names[names.length - 1]) caption.textContent = String(score);
    });
  }
}

function drawCell(article) {
  const cell = data.cells[article.dataset.cell];
  for (const text of cell.missing) make("p", "missing", text, article);
  if (cell.histogram) {
    make("p", "dim", `threshold ${cell.threshold.text}` + (cell.threshold.varies && cell.roc ? "; with a threshold per sample, the point need not be on the ROC curve" : ""), article);
    const plots = make("div", "plots", null, article);
    drawHistogram(make("div", "plot", null, plots), cell);
    if (cell.roc) drawRoc(make("div", "plot", null, plots), cell);
    else make("p", "dim", "No ROC curve: it needs both poison and clean samples.", plots);
  }
  drawSeen(article, cell);
  if (!cell.captions.length) return;
  make("h4", "", "Most suspicious images", article);
  legend(article, ROLES.filter((role) => cell.captions.some((caption) => caption[0] === role)));
  const gallery = make("div", "gallery", null, article);
  cell.captions.forEach(([role, score, flagged, label, trueLabel, index], i) => {
    const title = `${role}, score ${score}, ${flagged ? "flagged" : "not flagged"}, given label ${label}, true label ${trueLabel}, index ${index}`;
    const caption = picture(gallery, cell.images[i], role, title);
    make("b", "", String(score), caption);
    make("br", "", null, caption);
    caption.append(label === trueLabel ? `label ${label}` : `${label} \u2190 true ${trueLabel}`);
  });
}

function drawAttack(place) {
  const attack = data.attacks[place.dataset.attack];
  for (const text of attack.missing) make("p", "missing", text, place);
  // Without its artefact, `missing` has said all.
  if (!attack.facts) return;
  const { n_train, n_poison, n_cross, largest_pixel_change } = attack.facts;
  const facts = make("p", "facts", null, place);
  const shown = [["training images", n_train], ["poison", n_poison], ["cross", n_cross], ["largest change of a pixel", largest_pixel_change && `${largest_pixel_change} of 255`]];
  for (const [title, value] of shown) if (value) make("b", "", value.toLocaleString("en"), make("span", "", title + " ", facts));
  if (!attack.captions.length) return;
  const strip = stripOf(place);
  for (const [name, title] of [["before", "before"], ["after", "after"], ["change", `change \u00d7 ${attack.factor}`]]) {
    make("span", "", title, strip);
    const gallery = make("div", "gallery", null, strip);
    attack.captions.forEach(([role, label], i) => {
      const caption = picture(gallery, attack.images[name][i], name === "after" ? role : "", `${title}, ${role}, label ${label}`);
      if (name === "after") caption.textContent = `label ${label}`;
    });
  }
}

function drawDefended(place) {
  const rows = data.defended[Number(place.dataset.table)];
  const at = rows.map((_, i) => i);
  const traces = [["clean_accuracy", "x"], ["attack_success", "x2"]].flatMap(([name, xaxis]) => {
    const lines = { x: [], y: [], mode: "lines", xaxis, line: { color: colour("dim"), width: 1.5 } };
    // null ends a line, so that all lines are one trace.
    rows.forEach((row, i) => { lines.x.push(row[name][0], row[name][1], null); lines.y.push(i, i, null); });
    const marks = [["before", "paper"], ["after", "ink"]].map(([when, fill], side) => ({
      name: when, showlegend: xaxis === "x", x: rows.map((row) => row[name][side]), y: at, mode: "markers", xaxis,
      marker: { size: 9, color: colour(fill), line: { color: colour("ink"), width: 1.5 } }, hover: (i) => `${rows[i].names.join(" \u00b7 ")}${rows[i].variant ? ` \u00b7 ${rows[i].variant}` : ""}, ${when} ${number(rows[i][name][side])}`,
    }));
    return [lines, ...marks];
  });
  place.style.maxWidth = "1150px";
  const range = [-0.02, 1.02];
  drawPlot(place, traces, {
    height: 60 + 26 * rows.length, showlegend: true, label: "Clean accuracy and attack success before and after each defense; the table has the numbers",
    xaxis: axis("clean accuracy", { range, domain: [0, 0.48] }), xaxis2: axis("attack success", { range, domain: [0.52, 1] }),
    yaxis: axis("", { reversed: true, tickvals: at, ticktext: rows.map((row) => `${row.names[0]} \u00b7 ${row.names[1]}`), range: [-0.6, rows.length - 0.4], strong: true }),
  });
}
