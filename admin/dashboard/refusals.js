// Why calls fail: what clients were refused, to whom, and what would help.

import { api } from "./api.js";
import { $, button, cell, el, setText, userName } from "./dom.js";
import { dateTime, duration, plural, visible, whole, words } from "./format.js";
import { nowSecs } from "./session.js";
import { list } from "./table.js";

/** Rows before the reader asks for more. */
const FIRST_ROWS = 6;
const HEADS = ["Reason", "User", "Client", "Last", "Times", "What helps"];

const refusals = { all: false, shown: "" };

export async function refreshRefusals() {
  const answer = await api("GET", "/v1/refusals");
  setText($("refusals-note"), answer.refusals.length > 0 ? "the newest first, of all workers" : "");
  showReasons(answer.totals);
  // Rows under the pointer or with the focus stay where they are.
  if ($("refusals").matches(":hover, :focus-within")) return;
  showRows(answer.refusals);
}

/** Each reason with its code, the most frequent first. */
function showReasons(totals) {
  const sorted = [...totals].sort((one, other) => other.count - one.count);
  $("refusal-reasons").replaceChildren(...sorted.slice(0, 12).map(({ method, code, reason, count }) =>
    el("li", { class: "chip", title: visible(`${method}: ${reason}`) }, el("b", {}, String(code)), ` ${words(reason)} `, el("span", { class: "muted" }, whole(count)))));
}

function showRows(rows) {
  const shown = refusals.all ? rows : rows.slice(0, FIRST_ROWS);
  $("refusals").hidden = rows.length === 0;
  $("refusals-none").hidden = rows.length > 0;
  $("refusals-head").replaceChildren(...HEADS.map((head) => el("th", { scope: "col", class: head === "Times" ? "number" : undefined }, head)));
  $("refusal-rows").replaceChildren(...shown.map(rowOf));
  const more = rows.length - FIRST_ROWS;
  $("refusals-more").replaceChildren(...(more > 0 ? [button(refusals.all ? "Show fewer" : `Show ${whole(more)} more`, {}, () => {
    refusals.all = !refusals.all;
    showRows(rows);
    $("refusals-more").firstChild?.focus();
  })] : []));
}

function rowOf(refusal) {
  const { first_unix_secs: first, last_unix_secs: last } = refusal;
  const user = refusal.user ? el("button", { type: "button", class: "link" }, userName(refusal.user)) : el("span", { class: "muted" }, "unknown");
  if (refusal.user) user.addEventListener("click", () => list.search(refusal.user));
  const since = last > first ? ` (${plural(refusal.count, "time")} since ${dateTime(first)})` : "";
  return el("tr", {},
    cell("", "reason", el("span", { class: "badge code" }, String(refusal.code)), " ", words(refusal.reason),
      el("span", { class: "muted" }, ` ${[words(refusal.method), refusal.detail && visible(refusal.detail)].filter(Boolean).join(", ")}`)),
    cell("User", "user", user),
    cell("Client", "mono address", visible(refusal.client), refusal.peer ? el("span", { class: "muted" }, ` to ${visible(refusal.peer)}`) : null),
    el("td", { "data-label": "Last", title: `${dateTime(last)}${since}` }, `${duration(nowSecs() - last)} ago`),
    cell("Times", "number", whole(refusal.count)),
    cell("What helps", refusal.remedy ? "remedy" : "none-helps", refusal.remedy ? el("code", {}, visible(refusal.remedy)) : el("span", { class: "muted" }, "\u2013")));
}

export function clearRefusals() {
  refusals.all = false;
  $("refusal-rows").replaceChildren();
  $("refusal-reasons").replaceChildren();
  $("refusals-more").replaceChildren();
}
