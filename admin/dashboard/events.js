// What happens, as it happens: the newest first, a bounded number of them.

import { $, el, setText, userName } from "./dom.js";
import { bits, bytes, clockTime, duration, plural, visible, whole, words } from "./format.js";
import { nowSecs } from "./session.js";

const MAX_EVENTS = 500;
const ROWS = 100;

const events = { kept: [], held: [], changed: false };

/** Keeps an event; what is shown follows with the next look. */
export function takeEvent(name, value) {
  const entry = { name, value, at: nowSecs() };
  if ($("events-pause").checked) events.held.push(entry);
  else events.kept.push(entry);
  for (const kept of [events.kept, events.held]) kept.splice(0, Math.max(0, kept.length - MAX_EVENTS));
  events.changed = true;
}

/** Shows what has come; cheap when nothing has. */
export function showEvents() {
  if (!$("events-pause").checked && events.held.length > 0) {
    events.kept.push(...events.held.splice(0));
    events.kept.splice(0, Math.max(0, events.kept.length - MAX_EVENTS));
    events.changed = true;
  }
  setText($("events-held"), events.held.length > 0 ? `${plural(events.held.length, "event")} waiting` : "");
  if (!events.changed) return;
  events.changed = false;
  const kind = $("event-kind").value;
  const shown = events.kept.filter(({ name }) => kind === "" || name === kind).slice(-ROWS).reverse();
  $("event-rows").replaceChildren(...shown.map(rowOf));
  $("events-none").hidden = shown.length > 0;
}

export function filterEvents() {
  events.changed = true;
  showEvents();
}

function rowOf({ name, value, at }) {
  const { user, text, where } = describe(name, value);
  return el("li", { class: "event" },
    el("time", { class: "mono" }, clockTime(at)),
    el("span", { class: `badge ${name}` }, words(name)),
    el("span", { class: "what" }, user === undefined ? null : userName(user), user === undefined ? text : ` ${text}`,
      where ? el("span", { class: "mono muted" }, ` ${where}`) : null));
}

function describe(name, value) {
  const { allocation } = value;
  switch (name) {
    case "created":
      return { user: allocation.quota_user, text: "", where: `${allocation.client} as ${allocation.relayed.join(", ")}` };
    case "ended": {
      const sum = (way) => bytes(way.kernel.bytes + way.userspace.bytes);
      return {
        user: allocation.quota_user, where: allocation.client,
        text: `${words(value.reason)} after ${duration(value.duration_secs)}, ${sum(allocation.to_peer)} to peers, ${sum(allocation.to_client)} to the client`,
      };
    }
    case "limited": {
      const limit = value.max_bits_per_sec > 0 ? bits(value.max_bits_per_sec) : "none";
      return { user: value.user, text: value.why === "reached" ? `reached its limit of ${limit}, ${whole(value.rate_drops)} dropped so far` : `limit changed: ${limit}`, where: value.id };
    }
    case "refused":
      return {
        user: value.user ?? "unknown user", where: value.client,
        text: `${value.code} ${words(value.reason)}: ${words(value.method)}${value.peer ? ` to ${value.peer}` : ""}${value.detail ? `, ${visible(value.detail)}` : ""}`,
      };
    case "lagged":
      return { text: `${plural(value.lost, "event")} came faster than they could be sent, and are lost.` };
    default:
      return { text: "" };
  }
}

export function clearEvents() {
  Object.assign(events, { kept: [], held: [], changed: false });
  $("event-rows").replaceChildren();
  $("events-none").hidden = false;
}
