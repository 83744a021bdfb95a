// The Dockerfile, without an engine: its instructions, and that the program takes what it is told there.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { PROGRAMS } from "../../admin/dashboard/tests/support.js";

const ROOT = new URL("../../", import.meta.url);
const read = (name) => readFileSync(new URL(name, ROOT), "utf8");

/** Instructions of the final image as [name, rest], continued lines joined. */
function instructions() {
  const lines = read("deploy/Dockerfile").replaceAll("\\\n", " ").split("\n").filter((line) => line && !line.startsWith("#"));
  const all = lines.map((line) => [line.split(" ", 1)[0], line.slice(line.indexOf(" ") + 1).trim()]);
  return { all, final: all.slice(all.findLastIndex(([name]) => name === "FROM")) };
}

const only = (list, wanted) => {
  const found = list.filter(([name]) => name === wanted);
  assert.equal(found.length, 1, wanted);
  return found[0][1];
};

test("the image runs as a user by number, keeps its state in a volume and trusts certificates", () => {
  const { final } = instructions();
  const [, uid] = only(final, "USER").match(/^(\d+):\d+$/);
  assert.ok(Number(uid) > 999);
  assert.match(only(final, "RUN"), new RegExp(`useradd --uid ${uid} `));
  assert.match(only(final, "RUN"), /install [^&]*ca-certificates/);
  assert.equal(only(final, "VOLUME"), "/var/lib/turnpike");
});

test("it is built with the Rust that the project asks for, from files that are there", () => {
  const { all } = instructions();
  const [, version] = read("Cargo.toml").match(/rust-version = "([\d.]+)"/);
  assert.ok(all.some(([name, rest]) => name === "FROM" && rest.startsWith(`rust:${version}-`)));
  for (const [name, rest] of all) {
    if (name !== "COPY" || rest.startsWith("--from")) continue;
    for (const source of rest.split(" ").slice(0, -1)) assert.ok(existsSync(new URL(source, ROOT)), source);
  }
});

test("the program knows the command that it starts with, and the one that asks for its health", () => {
  const { final } = instructions();
  const [program] = JSON.parse(only(final, "ENTRYPOINT"));
  const health = JSON.parse(only(final, "HEALTHCHECK").match(/CMD (\[.*\])$/)[1]);
  assert.equal(program, health[0]);
  for (const [command, option] of [JSON.parse(only(final, "CMD")), health.slice(1)]) {
    const help = execFileSync(PROGRAMS.relay, [command, "--help"], { encoding: "utf8" });
    assert.ok(help.includes(option), `${command} ${option}`);
  }
});
