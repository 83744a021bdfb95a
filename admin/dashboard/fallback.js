// Connections that are not TURN's and are passed to a website on the same port, where there is one.

import { $, setText, setValue } from "./dom.js";
import { bytes, visible, whole, words } from "./format.js";

/** Why a connection was not passed on, by the names that the relay counts them under; all but a cap are the website's fault. */
const REFUSALS = ["fallback_unreachable", "fallback_timeout", "fallback_cap"];

/** Where they go, if anywhere: without it there is nothing to show. */
export function showFallbackAddress({ tls_fallback: address }) {
  $("fallback").hidden = !address;
  setText($("fallback-open-sub"), address ? `to ${visible(address)}` : "\u00a0");
}

export function showFallback({ sum: { streams } }) {
  const { fallback, closed } = streams;
  setValue($("fallback-open"), whole(fallback.connections));
  setValue($("fallback-accepted"), whole(fallback.accepted));
  setText($("fallback-accepted-sub"), `${bytes(fallback.bytes_to_fallback)} to it, ${bytes(fallback.bytes_to_client)} back`);
  const refused = REFUSALS.map((name) => [name, closed[name] ?? 0]).filter(([, count]) => count > 0);
  setValue($("fallback-refused"), whole(refused.reduce((sum, [, count]) => sum + count, 0)));
  const reasons = refused.map(([name, count]) => `${whole(count)} ${words(name.replace("fallback_", ""))}`);
  setText($("fallback-refused-sub"), reasons.join(", ") || "since the start");
  $("fallback-refused-sub").classList.toggle("bad-text", refused.some(([name]) => name !== "fallback_cap"));
}

export function clearFallback() {
  $("fallback").hidden = true;
}
