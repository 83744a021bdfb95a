// Which part of the page is shown: the part of the address after `#`.

import { $ } from "./dom.js";

const VIEWS = ["overview", "users", "events", "configuration"];

let current = VIEWS[0];

export const isShown = (view) => current === view;

/** Follows the address; what names no view of ours (a link within the page) changes nothing. */
export function followAddress(onShow) {
  const asked = location.hash.slice(1);
  if (VIEWS.includes(asked)) current = asked;
  for (const view of VIEWS) {
    $(`view-${view}`).hidden = view !== current;
    const link = document.querySelector(`.views a[href="#${view}"]`);
    if (view === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  onShow(current);
}
