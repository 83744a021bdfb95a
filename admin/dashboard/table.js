// The table of allocations: the relay searches, sorts and pages; this page holds one page of rows.

import { api, connection, query } from "./api.js";
import { detail } from "./detail.js";
import { $, arrange, el, pathBadge, setText, userName } from "./dom.js";
import { bits, bytes, countText, duration, limitText, pathText, visible, whole } from "./format.js";
import { handleFailure } from "./session.js";

const COLUMNS = [
  { title: "User", sort: "user", className: "user" },
  { title: "Client", sort: "client", className: "mono client" },
  { title: "Transport", className: "transport optional spare" },
  { title: "Relayed", className: "mono optional spare" },
  { title: "Age", sort: "created", className: "number optional" },
  { title: "Expires in", sort: "expires", className: "number optional spare" },
  { title: "To peers", className: "number", label: "\u2191" },
  { title: "To clients", className: "number", label: "\u2193" },
  { title: "Rate", sort: "rate", className: "number optional" },
  { title: "Traffic", sort: "traffic", className: "number optional" },
  { title: "Over limit", sort: "drops", className: "number optional" },
  { title: "Limit", className: "number optional" },
  { title: "Path", className: "path" },
];

export const list = {
  offset: 0,
  sort: "rate",
  order: "desc",
  rows: new Map(),
  asked: 0,
  shown: null,

  async refresh({ hold = false } = {}) {
    const asked = ++this.asked;
    const limit = Number($("page-size").value);
    const wanted = query({
      search: $("search").value.trim(), offloaded: $("path-filter").value, transport: $("transport-filter").value,
      sort: this.sort, order: this.order, limit, offset: this.offset,
    });
    const page = await api("GET", `/v1/allocations?${wanted}`);
    // Only the answer to the last question counts.
    if (asked !== this.asked || !connection.token) return;
    if (page.allocations.length === 0 && this.offset > 0) {
      this.offset = Math.max(0, Math.floor((page.matching - 1) / limit) * limit);
      return this.refresh();
    }
    // Under the pointer nothing moves by itself: a click must hit what it was meant for.
    if (hold && wanted === this.shown && $("rows").matches(":hover")) return this.update(page);
    this.shown = wanted;
    this.show(page);
  },

  /** Asks at once, for a reader who changed what is shown. */
  async reload({ offset = 0 } = {}) {
    this.offset = offset;
    try {
      await this.refresh();
    } catch (error) {
      handleFailure(error);
    }
  },

  /** New numbers in the rows that are there. */
  update(page) {
    for (const allocation of page.allocations) {
      const row = this.rows.get(allocation.id);
      if (row) fillRow(row, allocation, page.as_of_unix_millis / 1000);
    }
  },

  show(page) {
    const now = page.as_of_unix_millis / 1000;
    const rows = page.allocations.map((allocation) => {
      const row = this.rows.get(allocation.id) ?? this.createRow(allocation);
      fillRow(row, allocation, now);
      return row;
    });
    this.rows = new Map(page.allocations.map((allocation, index) => [allocation.id, rows[index]]));
    arrange($("rows"), rows);
    setText($("match-count"), page.matching === page.total ? whole(page.total) : `${whole(page.matching)} of ${whole(page.total)}`);
    const last = page.offset + page.allocations.length;
    setText($("page-range"), page.matching > 0 ? `${whole(page.offset + 1)}\u2013${whole(last)} of ${whole(page.matching)}` : "");
    $("previous-page").disabled = page.offset === 0;
    $("next-page").disabled = last >= page.matching;
    showEmpty(page);
  },

  createRow(allocation) {
    const row = el("tr", { "data-id": allocation.id });
    for (const column of COLUMNS) {
      row.append(el("td", { class: column.className, "data-label": column.label }));
    }
    const button = el("button", { type: "button", class: "link" }, userName(allocation.quota_user));
    row.firstChild.append(button);
    row.firstChild.title = visible(allocation.user);
    row.addEventListener("click", () => detail.open(allocation.id));
    return row;
  },

  /** All allocations whose user, address or id has this text. */
  search(text) {
    $("search").value = text;
    clearFilters();
    $("allocations-title").focus();
    return this.reload();
  },

  clear() {
    this.rows.clear();
    $("rows").replaceChildren();
    $("search").value = "";
    clearFilters();
    this.offset = 0;
  },
};

function clearFilters() {
  $("path-filter").value = "";
  $("transport-filter").value = "";
}

function fillRow(row, allocation, now) {
  const both = (key) => [allocation.to_peer, allocation.to_client].reduce((sum, way) => sum + way.kernel[key] + way.userspace[key], 0);
  const texts = [
    allocation.client,
    allocation.transport.toUpperCase(),
    allocation.relayed.join(", "),
    duration(now - allocation.created_unix_secs),
    duration(allocation.expires_unix_secs - now),
    bits(allocation.to_peer_bits_per_sec),
    bits(allocation.to_client_bits_per_sec),
    bits(allocation.to_peer_bits_per_sec + allocation.to_client_bits_per_sec),
    bytes(both("bytes")),
    countText(both("rate_drops")),
    limitText(allocation.max_bits_per_sec),
  ];
  texts.forEach((text, index) => setText(row.children[index + 1], text));
  const cell = row.lastChild;
  const state = pathText(allocation.offload);
  if (cell.textContent !== state.text) cell.replaceChildren(pathBadge(allocation.offload));
  cell.title = state.why;
}

function showEmpty(page) {
  $("empty").hidden = page.allocations.length > 0;
  if (page.allocations.length > 0) return;
  const [title, text] = page.total > 0
    ? ["No allocation matches.", "The search looks for a part of the user's name, of an address of client, relay or peer, or of the id."]
    : ["No allocations yet.", "They appear here as soon as a client has made one. Try it: turnpike credentials makes a user name and a password."];
  $("empty").replaceChildren(el("strong", {}, title), text);
}

export function createHead() {
  for (const { title, sort, className } of COLUMNS) {
    const cell = el("th", { scope: "col", class: className.replace(/mono|client|path/g, "").trim() });
    if (sort) {
      const button = el("button", { type: "button", class: "sort" }, title);
      button.addEventListener("click", () => sortBy(sort));
      cell.append(button);
      cell.dataset.sort = sort;
      $("sort-select").append(el("option", { value: sort }, `By ${title.toLowerCase()}`));
    } else {
      cell.append(title);
    }
    $("table-head").append(cell);
  }
  $("sort-select").addEventListener("change", () => sortBy($("sort-select").value));
  markSort();
}

/** Texts from A to Z first, numbers from the largest; a second click turns it around. */
function sortBy(key) {
  const first = ["user", "client"].includes(key) ? "asc" : "desc";
  const other = first === "asc" ? "desc" : "asc";
  list.order = list.sort === key && list.order === first ? other : first;
  list.sort = key;
  markSort();
  list.reload();
}

function markSort() {
  $("sort-select").value = list.sort;
  for (const cell of $("table-head").children) {
    if (cell.dataset.sort === list.sort) cell.setAttribute("aria-sort", list.order === "asc" ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  }
}
