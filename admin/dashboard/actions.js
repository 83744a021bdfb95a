// What an operator does to allocations and to the relay, each confirmed.

import { api } from "./api.js";
import { detail } from "./detail.js";
import { bitsOf, confirmAction, field, numberInput } from "./dialog.js";
import { $, el, userName } from "./dom.js";
import { bits, visible } from "./format.js";
import { showStatus } from "./panels.js";

export function askLimit() {
  const { id, user, max_bits_per_sec: current } = detail.last;
  const input = numberInput("limit-value", { step: "any", value: String(current / 1e6) });
  confirmAction({
    title: "Limit this allocation",
    text: ["It applies at once, in each direction, to ", el("strong", {}, userName(user)), "."],
    fields: [field("limit-value", "Mbit/s", "Payload bits per second. 0: no limit.", input)],
    button: "Set the limit",
    act: async () => {
      const limit = bitsOf(input);
      if (limit === null) throw new Error("A number of Mbit/s, please; 0 means no limit.");
      await api("PATCH", `/v1/allocations/${id}`, { max_bits_per_sec: limit });
      return limit > 0 ? `Limited to ${bits(limit)} in each direction.` : "The limit is gone.";
    },
  });
}

export function askDisconnect() {
  const { id, user, client } = detail.last;
  confirmAction({
    title: "Disconnect this allocation?",
    text: ["The call of ", el("strong", {}, userName(user)), ` from ${client} loses this relay at once. Its client may make a new allocation.`],
    button: "Disconnect",
    danger: true,
    act: async () => {
      await api("DELETE", `/v1/allocations/${id}`);
      $("detail").close();
      return "Disconnected.";
    },
  });
}

export function askDrain() {
  const input = numberInput("drain-minutes", { max: "10080", step: "any", placeholder: "no deadline" });
  confirmAction({
    title: "Drain this relay?",
    text: "It takes no new allocations and reports itself not ready. Those that exist live on until they end.",
    fields: [field("drain-minutes", "Deadline, minutes", "Then the rest is ended. Empty: none.", input)],
    button: "Drain",
    act: async () => {
      const minutes = Number(input.value);
      if (!Number.isFinite(minutes) || minutes < 0 || !input.validity.valid) throw new Error("Minutes, please, or nothing.");
      const body = input.value === "" ? {} : { deadline_secs: Math.round(minutes * 60) };
      await api("POST", "/v1/drain", body);
      showStatus(await api("GET", "/v1/status"));
      return "Draining.";
    },
  });
}

export function askResume() {
  confirmAction({
    title: "Take new allocations again?",
    text: "The drain ends, also its deadline, and the relay reports itself ready.",
    button: "Take new allocations",
    act: async () => {
      await api("DELETE", "/v1/drain");
      showStatus(await api("GET", "/v1/status"));
      return "New allocations are welcome again.";
    },
  });
}

export function askReload() {
  confirmAction({
    title: "Read the configuration again?",
    text: "What can change while the relay runs is applied, as by SIGHUP. A file with an error changes nothing.",
    button: "Reload",
    act: async () => {
      const { applied, restart_needed: restart, warnings } = await api("POST", "/v1/reload");
      return [
        applied.length > 0 ? `Applied: ${applied.join(", ")}.` : "Nothing has changed.",
        restart.length > 0 ? `Needs a restart: ${restart.join(", ")}.` : "",
        ...warnings.map(visible),
      ].filter(Boolean).join(" ");
    },
  });
}
