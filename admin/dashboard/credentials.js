// Time-limited credentials, for a client that is to be tried now.

import { api } from "./api.js";
import { $, button, copyFrom, el, setText } from "./dom.js";
import { dateTime, visible } from "./format.js";
import { handleFailure, nowSecs } from "./session.js";

export async function submitCredentials(event) {
  event.preventDefault();
  const user = $("credential-user").value.trim();
  setText($("credential-error"), "");
  $("credentials").replaceChildren();
  if (user === "") return setText($("credential-error"), "A name, please: quotas count by it.");
  try {
    show(await api("POST", "/v1/credentials", { user, ttl_secs: Number($("credential-ttl").value) }));
  } catch (error) {
    if (error.status === 401) handleFailure(error);
    setText($("credential-error"), error.message);
  }
}

function show({ username, password, ttl_secs: ttl, uris }) {
  const server = JSON.stringify({ urls: uris, username, credential: password });
  $("credentials").replaceChildren(
    ...[["User name", username], ["Password", password], ["Entry of iceServers", server]].map(([label, value], index) => {
      const id = `credential-${index}`;
      const input = el("input", { id, class: "mono", readonly: "", value });
      return el("div", { class: "field" }, el("label", { for: id }, label),
        el("div", { class: "copy" }, input, button("Copy", { "aria-label": `Copy ${label}` }, () => copyFrom(input))));
    }),
    el("p", { class: "muted" }, `Good for new allocations until ${dateTime(nowSecs() + ttl)}, at ${uris.map(visible).join(", ")}.`),
  );
}

export function clearCredentials() {
  $("credential-user").value = "";
  setText($("credential-error"), "");
  $("credentials").replaceChildren();
}
