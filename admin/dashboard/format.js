// Numbers, times and names as people read them.

const formatWhole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const whole = (value) => formatWhole.format(value);

function scaled(value, unit) {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let step = 0;
  while (Math.abs(value) >= 999.5 && step < prefixes.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${prefixes[step]}${unit}`;
}

export const bits = (value) => scaled(value, "bit/s");
export const bytes = (value) => scaled(value, "B");
export const rate = (value) => `${value > 0 && value < 10 ? value.toFixed(1) : whole(value)}/s`;
export const packetRate = (value) => scaled(value, "/s");
export const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
export const limitText = (value) => (value > 0 ? bits(value) : "\u2013");
export const countText = (value) => (value > 0 ? whole(value) : "\u2013");

/** "2.00 Gbit/s" on an axis is "2 Gbit/s". */
export const short = (text) => text.replace(/\.0+(?= )/, "").replace(/(\.\d*?)0+(?= )/, "$1");

export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s / 3600) % 24} h`;
}

export const clockTime = (unixSecs) => new Date(unixSecs * 1000).toLocaleTimeString("en-GB");
export const dateTime = (unixSecs) => new Date(unixSecs * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Characters that would vanish, or turn the line around, become visible. */
export function visible(text) {
  const hidden = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
  return String(text).replace(hidden, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

/** "drop_not_turn" is "not turn", "expired-credential" is "expired credential". */
export const words = (name) => visible(name.replace(/^(drop|pass)_/, "").replaceAll(/[_-]/g, " "));

/** Which way an allocation or a channel goes, and why. */
export function pathText(offload) {
  if (offload.active) return { text: "kernel", why: `${plural(offload.channels_active, "channel")} in the kernel` };
  return { text: "userspace", why: visible(offload.explanation ?? words(offload.why_not ?? "")) };
}
