// The dialog in which an operator confirms what is to be done, and says how.

import { $, el, setText, toast } from "./dom.js";
import { handleFailure } from "./session.js";

const confirmation = { act: null };

/** `act` answers what is said when it has worked, and throws what is wrong. */
export function confirmAction({ title, text, button, danger = false, fields = [], act }) {
  confirmation.act = act;
  setText($("confirm-title"), title);
  $("confirm-text").replaceChildren(...[text].flat());
  $("confirm-fields").replaceChildren(...fields);
  setText($("confirm-error"), "");
  setText($("confirm-ok"), button);
  $("confirm-ok").classList.toggle("danger", danger);
  $("confirm-ok").disabled = false;
  $("confirm").showModal();
  ($("confirm-fields").querySelector("input") ?? $("confirm-cancel")).focus();
}

export async function submitConfirmation(event) {
  event.preventDefault();
  $("confirm-ok").disabled = true;
  setText($("confirm-error"), "");
  try {
    toast(await confirmation.act());
    $("confirm").close();
    document.dispatchEvent(new Event("changed"));
  } catch (error) {
    setText($("confirm-error"), error.message);
    if (error.status === 401) handleFailure(error);
  } finally {
    $("confirm-ok").disabled = false;
  }
}

export function field(id, label, hint, ...controls) {
  return el("div", { class: "field" }, el("label", { for: id }, label), ...controls, el("span", { id: `${id}-hint`, class: "hint" }, hint));
}

export function numberInput(id, attributes) {
  return el("input", { id, type: "number", min: "0", inputmode: "decimal", "aria-describedby": `${id}-hint`, ...attributes });
}

/** Mbit/s as typed, in bit/s; null for what is no such number. */
export function bitsOf(input) {
  const megabits = Number(input.value);
  if (input.value === "" || !input.validity.valid || !Number.isFinite(megabits) || megabits < 0) return null;
  return Math.round(megabits * 1e6);
}
