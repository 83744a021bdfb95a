// Elements. Everything that comes from the relay is shown by textContent: names are hostile until proven
// otherwise.

import { pathText, visible } from "./format.js";

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A number large, its unit small. */
export function setValue(node, text) {
  const [number, unit] = text.split(" ");
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  node.replaceChildren(number, ...(unit ? [el("span", { class: "unit" }, unit)] : []));
}

/** A user's name, isolated from the direction of the text around it. */
export const userName = (name) => el("bdi", {}, visible(name) || "(empty)");

export function pathBadge(offload) {
  const { text, why } = pathText(offload);
  return el("span", { class: `badge ${text}`, title: why }, text);
}

export function button(text, attributes, act) {
  const node = el("button", { type: "button", class: "button", ...attributes }, text);
  node.addEventListener("click", act);
  return node;
}

export function toast(message, bad = false) {
  const node = el("div", { class: bad ? "toast bad" : "toast" }, message);
  $("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 9_000 : 4_500);
  while ($("toasts").children.length > 4) $("toasts").firstChild.remove();
}

/** Brings children into an order, touching only those out of place, and keeps the focus. */
export function arrange(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > children.length) parent.lastChild.remove();
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}

export const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

export function simpleTable(heads, rows, firstNumber) {
  const className = (index) => (index >= firstNumber ? "number" : undefined);
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head, index) => el("th", { scope: "col", class: className(index) }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, index) => el("td", { class: className(index) }, cell))))));
}

/** A cell that names its column where the table has no head (on a narrow screen). */
export const cell = (label, className, ...content) => el("td", { class: className, "data-label": label }, ...content);

/** A list entry with a bar below it. */
export function meter(name, number, share, kind, title) {
  const bar = el("i", { class: kind });
  bar.style.width = `${Math.max(share > 0 ? 1 : 0, Math.min(100, 100 * share))}%`;
  return el("li", { class: "meter", title },
    typeof name === "string" ? el("span", { class: "name" }, name) : name,
    el("span", { class: "number" }, ...[number].flat()),
    el("span", { class: "track", "aria-hidden": "true" }, bar));
}

export const nothing = (text) => el("li", { class: "nothing" }, text);

/** To the clipboard, or selected for the reader's own hands where the browser keeps the clipboard closed. */
export async function copyFrom(input) {
  input.focus();
  input.select();
  try {
    await navigator.clipboard.writeText(input.value);
    toast("Copied.");
  } catch {
    toast("Selected: this browser copies by itself only over HTTPS or on localhost. Press Ctrl+C.");
  }
}
