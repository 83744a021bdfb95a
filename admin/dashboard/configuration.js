// The configuration in force. Secrets are counted, never shown: the relay doesn't send them.

import { api } from "./api.js";
import { $, cell, el } from "./dom.js";
import { plural, visible } from "./format.js";

const HEADS = ["Option", "Value", "A change takes effect"];

let options = [];

export async function refreshConfiguration() {
  ({ options } = await api("GET", "/v1/config"));
  showOptions();
}

export function showOptions() {
  const wanted = $("option-search").value.trim().toLowerCase();
  const matches = ({ name, values, secret }) => name.includes(wanted) || (!secret && values.some((value) => value.toLowerCase().includes(wanted)));
  const shown = options.filter(matches);
  $("options-head").replaceChildren(...HEADS.map((head) => el("th", { scope: "col" }, head)));
  $("option-rows").replaceChildren(...shown.map(rowOf));
  $("options-none").hidden = shown.length > 0;
}

function rowOf({ name, values, secret, reloadable }) {
  return el("tr", {},
    cell("", "mono option", visible(name)),
    cell("", "option-value", ...valueOf(values, secret)),
    cell("Changes", "muted changes", reloadable ? "on reload" : "on restart"));
}

function valueOf(values, secret) {
  if (values.length === 0) return [el("span", { class: "muted" }, "not set")];
  if (secret) return [el("span", { class: "muted" }, `${plural(values.length, "secret")}, not shown`)];
  return values.map((value) => el("span", { class: "mono" }, visible(value)));
}

export function clearConfiguration() {
  options = [];
  $("option-search").value = "";
  $("option-rows").replaceChildren();
}
