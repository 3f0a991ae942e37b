"use strict";
// The data of the page, and what all drawings share. Text is set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const ROLES = ["clean", "poison", "cross"];
const colour = (name) => `var(--${name})`;

function make(tag, className, text, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

const axis = (title, more) => ({ title, ...more });
