"use strict";
// The data of the page, and what all drawings share. Text is set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const ROLES = ["clean", "poison", "cross"];
// Plotly knows no CSS variables: their values are read when a plot is drawn.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const config = { displayModeBar: false, displaylogo: false, responsive: true };

function make(tag, className, text, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// Plotly reads some tags in its texts: names come from experiment files, so they lose what could be one.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function axis(title, more) {
  return Object.assign({ title: { text: title, standoff: 8, font: { size: 12 } }, color: colour("dim"), gridcolor: colour("line"), zeroline: false, automargin: true }, more);
}

function layout(more) {
  return Object.assign({
    margin: { l: 52, r: 12, t: 26, b: 42 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
    legend: { orientation: "h", x: 0, y: 1.12, bgcolor: "rgba(0,0,0,0)" },
  }, more);
}
