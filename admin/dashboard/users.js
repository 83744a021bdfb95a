// Users: those of the configuration are shown, those of the database can be changed.

import { api, query } from "./api.js";
import { bitsOf, confirmAction, field, numberInput } from "./dialog.js";
import { $, button, cell, el, setText, userName } from "./dom.js";
import { bits, dateTime, whole } from "./format.js";
import { handleFailure } from "./session.js";

const PAGE = 50;
const HEADS = ["User", "Kept in", "Allocations at once", "Limit, each direction", "Changed"];

const users = { offset: 0, asked: 0 };
const pathOf = (name) => `/v1/users/${encodeURIComponent(name)}`;

export async function refreshUsers() {
  // A row under the pointer doesn't move: a click must hit what it was meant for.
  if ($("users").matches(":hover, :focus-within")) return;
  await askUsers();
}

export async function reloadUsers(offset = users.offset) {
  users.offset = offset;
  try {
    await askUsers();
  } catch (error) {
    handleFailure(error);
  }
}

async function askUsers() {
  const asked = ++users.asked;
  const page = await api("GET", `/v1/users?${query({ search: $("user-search").value.trim(), limit: PAGE, offset: users.offset })}`);
  if (asked !== users.asked) return;
  if (page.users.length === 0 && users.offset > 0) return reloadUsers(Math.max(0, users.offset - PAGE));
  $("users-head").replaceChildren(...HEADS.map((head) => el("th", { scope: "col" }, head)), el("th", { "data-needs": "admin" }, el("span", { class: "hidden" }, "Actions")));
  $("user-rows").replaceChildren(...page.users.map(rowOf));
  setText($("users-count"), whole(page.matching));
  const last = page.offset + page.users.length;
  setText($("users-range"), page.matching > PAGE ? `${whole(page.offset + 1)}\u2013${whole(last)} of ${whole(page.matching)}` : "");
  $("users-pager").hidden = page.matching <= PAGE;
  $("users-previous").disabled = page.offset === 0;
  $("users-next").disabled = last >= page.matching;
  $("users-none").hidden = page.users.length > 0;
  setText($("users-none"), $("user-search").value ? "No user matches." : "No users are kept here: clients come with time-limited credentials.");
}

export const previousUsers = () => reloadUsers(Math.max(0, users.offset - PAGE));
export const nextUsers = () => reloadUsers(users.offset + PAGE);

function rowOf(user) {
  const stored = user.source === "database";
  const limit = user.max_bits_per_sec;
  return el("tr", {},
    cell("", "user", userName(user.name)),
    cell("Kept in", undefined, stored ? "database" : "configuration"),
    cell("At once", undefined, user.quota === undefined ? "default" : whole(user.quota)),
    cell("Limit", undefined, limit === undefined ? "default" : limit === 0 ? "none" : bits(limit)),
    cell("Changed", undefined, user.updated_unix_secs ? dateTime(user.updated_unix_secs) : "\u2013"),
    el("td", { class: "actions", "data-needs": "admin" },
      button("Disconnect\u2026", { "aria-label": `Disconnect ${user.name}` }, () => askDisconnectUser(user)),
      ...(stored ? [
        button("Change\u2026", { "aria-label": `Change ${user.name}` }, () => askChangeUser(user)),
        button("Delete\u2026", { class: "button danger", "aria-label": `Delete ${user.name}` }, () => askDeleteUser(user)),
      ] : [])));
}

/** Quota and limit of a user; what is left empty is the server's default. */
function userFields(user, passwordHint) {
  const password = el("input", { id: "user-password", type: "password", autocomplete: "new-password", "aria-describedby": "user-password-hint" });
  const quota = numberInput("user-quota", { max: "4294967295", step: "1", placeholder: "default", value: user?.quota ?? "" });
  const limit = numberInput("user-limit", { max: "1000000", step: "any", placeholder: "default", value: user?.max_bits_per_sec === undefined ? "" : String(user.max_bits_per_sec / 1e6) });
  return {
    nodes: [
      field("user-password", "Password", passwordHint, password),
      field("user-quota", "Allocations at once", "Empty: the server's default.", quota),
      field("user-limit", "Mbit/s", "For each allocation in each direction. Empty: the server's default; 0: no limit.", limit),
    ],
    read() {
      const change = {};
      if (password.value !== "") change.password = password.value;
      if (!quota.validity.valid) throw new Error("Allocations at once is a whole number, or empty.");
      if (quota.value !== "") change.quota = Number(quota.value);
      if (limit.value !== "" || !limit.validity.valid) {
        const value = bitsOf(limit);
        if (value === null) throw new Error("A number of Mbit/s, please, or nothing.");
        change.max_bits_per_sec = value;
      }
      return change;
    },
  };
}

export function askAddUser() {
  const name = el("input", { id: "user-name", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: "508", "aria-describedby": "user-name-hint" });
  const { nodes, read } = userFields(null, "The relay keeps a key made from it, never the password.");
  confirmAction({
    title: "Add a user",
    text: "It is kept in the user database and may allocate at once.",
    fields: [field("user-name", "Name", "As the client sends it.", name), ...nodes],
    button: "Add",
    act: async () => {
      if (name.value === "") throw new Error("A name, please.");
      const change = read();
      if (!change.password) throw new Error("A new user needs a password.");
      // A PUT would replace a user of that name without a word.
      const there = await api("GET", pathOf(name.value)).catch((error) => { if (error.status !== 404) throw error; });
      if (there) throw new Error("There is a user of that name already.");
      await api("PUT", pathOf(name.value), change);
      return "The user may allocate now.";
    },
  });
}

function askChangeUser(user) {
  const { nodes, read } = userFields(user, "Empty: it stays as it is.");
  confirmAction({
    title: "Change a user",
    text: ["For ", el("strong", {}, userName(user.name)), "."],
    fields: nodes,
    button: "Change",
    act: async () => {
      await api("PUT", pathOf(user.name), read());
      return "Changed.";
    },
  });
}

function askDeleteUser(user) {
  confirmAction({
    title: "Delete this user?",
    text: [el("strong", {}, userName(user.name)), " can make no new allocation."],
    button: "Delete",
    danger: true,
    act: async () => {
      await api("DELETE", pathOf(user.name));
      return "Deleted.";
    },
  });
}

function askDisconnectUser(user) {
  confirmAction({
    title: "Disconnect this user?",
    text: ["All allocations of ", el("strong", {}, userName(user.name)), " end at once. Its clients may make new ones."],
    button: "Disconnect",
    danger: true,
    act: async () => {
      const { allocations } = await api("DELETE", `${pathOf(user.name)}/allocations`);
      return allocations === 0 ? "There was nothing to disconnect." : `Disconnected: ${whole(allocations)}.`;
    },
  });
}

export function clearUsers() {
  users.offset = 0;
  $("user-search").value = "";
  $("user-rows").replaceChildren();
}
