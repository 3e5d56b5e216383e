"""The style and the script of the pages, and the headers that allow just these."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #22262b; --soft: #646b74; --hair: #e4e1db;
  --accent: #2f5fb3; --new: #e9f3ea; --new-edge: #4f9160;
  --good: #2c6e3f; --bad: #a8322a; --busy: #8a5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e4e2dd; --soft: #9aa1aa; --hair: #30343a;
    --accent: #8fb4f2; --new: #1d2b21; --new-edge: #6aa77a;
    --good: #86c798; --bad: #ef958c; --busy: #e0b05c;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 76rem; padding: 2.25rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
a { color: var(--accent); text-decoration: none }
a:hover { text-decoration: underline }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px }
h1 { font-size: 1.75rem; font-weight: 600; line-height: 1.2; letter-spacing: -.015em; margin: .25rem 0 .5rem }
h2 { font-size: 1.1rem; font-weight: 600; margin: 2.5rem 0 .9rem }
h3 { font-size: 1rem; font-weight: 600; margin: 0 }
h1 + .card { margin-top: 1.5rem }
h2 .soft { font-weight: 400 }
time { white-space: nowrap }
h1, h2, h3, td { overflow-wrap: anywhere }
p { margin: .5rem 0 }
nav, .soft { color: var(--soft); font-size: .9rem }
nav span { margin: 0 .5rem }
.facts { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: baseline }
.status { font-size: .9rem; font-weight: 600 }
.status::before { content: ""; display: inline-block; width: .5rem; height: .5rem; margin: 0 .45rem .1rem 0;
  border-radius: 50%; background: currentColor }
.RUNNING { color: var(--busy) } .COMPLETED { color: var(--good) } .CRASHED, .FAILED { color: var(--bad) }
.card { background: var(--card); border: 1px solid var(--hair); border-radius: 10px; padding: 1.1rem 1.25rem }
.plots { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)) }
.stack { display: grid; gap: 1.1rem; grid-template-columns: minmax(0, 1fr) }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: .1rem 1rem;
  margin-bottom: .6rem }
.head h3 { min-width: 0 }
.now { font-size: 1.35rem; font-weight: 600; letter-spacing: -.01em; font-variant-numeric: tabular-nums }
.plot { display: block; width: 100%; height: auto }
.plot text { font-size: 13px; fill: var(--soft); font-variant-numeric: tabular-nums }
.grid { stroke: var(--hair) } .axis { stroke: var(--soft) }
.line { fill: none; stroke: var(--accent); stroke-width: 1.75; stroke-linejoin: round }
.dot { fill: var(--accent) } .hit { fill: transparent }
.prose { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 75ch; margin: 0;
  font: 1.05rem/1.65 Charter, "Iowan Old Style", Georgia, "Noto Serif", "Liberation Serif", serif }
.prose span, .prose ins { display: block; min-height: 1.65em; text-decoration: none; padding-left: .8rem;
  border-left: 3px solid transparent; margin-left: calc(-.8rem - 3px) }
.prose ins { background: var(--new); border-color: var(--new-edge) }
details { margin-top: .9rem }
summary { cursor: pointer; color: var(--soft); font-size: .9rem }
details .prose { color: var(--soft); font-size: .95rem; margin: .2rem 0 1.1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { font-size: .85rem; font-weight: 500; color: var(--soft) }
th, td { text-align: left; padding: .45rem 1.25rem .45rem 0; border-bottom: 1px solid var(--hair); vertical-align: top }
tr:last-child td { border-bottom: 0 }
th:last-child, td:last-child { padding-right: 0 }
.number { text-align: right; white-space: nowrap }
.wide { overflow-x: auto; padding-block: .6rem }
td .soft { white-space: nowrap } td .soft b { font-weight: 400; color: var(--ink); margin-right: 1rem }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .9rem }
label { display: block; margin: 1.5rem 0 .4rem }
input, button { font: inherit; color: inherit; padding: .45rem .7rem; border: 1px solid var(--hair); border-radius: 7px;
  background: var(--paper) }
input { width: min(100%, 26rem); margin-right: .5rem; border-color: var(--soft) }
button { background: var(--accent); border-color: var(--accent); color: var(--card); cursor: pointer }
.entry { max-width: 34rem; margin: 12vh auto 0 }
.problem { color: var(--bad) }
@media (prefers-reduced-motion: no-preference) {
  .changed { animation: changed 1.6s ease-out }
  @keyframes changed { from { border-color: var(--accent) } }
}
"""

# Only the parts whose server-made HTML has changed are replaced, so that what a reader has selected, opened or
# focused elsewhere stays. `known` keeps that HTML: the document's own differs once a <details> was opened.
SCRIPT = """
"use strict";
const INTERVAL_MS = 1000;
const line = document.getElementById("live");
const parts = (root) => new Map(Array.from(root.querySelectorAll("[data-part]"), (part) => [part.dataset.part, part]));
const html = (root) => new Map(Array.from(parts(root), ([name, part]) => [name, part.outerHTML]));
let revision = document.documentElement.dataset.revision;
let known = html(document);
let timer = 0;

function keepOpen(old, fresh) {
  for (const details of old.querySelectorAll("details[open]")) {
    const same = details.id && fresh.querySelector("#" + CSS.escape(details.id));
    if (same) same.open = true;
  }
}

function show(page) {
  const fresh = html(page);
  const main = page.querySelector("main");
  if (String([...fresh.keys()]) !== String([...known.keys()])) {
    keepOpen(document, main);
    document.querySelector("main").replaceWith(main);
  } else {
    const now = parts(document);
    for (const [name, part] of parts(page)) {
      if (fresh.get(name) === known.get(name)) continue;
      keepOpen(now.get(name), part);
      part.classList.add("changed");
      now.get(name).replaceWith(part);
    }
  }
  known = fresh;
}

async function look() {
  clearTimeout(timer);
  const start = performance.now();
  try {
    const reply = await fetch(location.pathname, {headers: {"If-None-Match": revision}, cache: "no-store"});
    if (reply.status === 401) return location.reload();
    if (reply.ok) {
      show(new DOMParser().parseFromString(await reply.text(), "text/html"));
      revision = reply.headers.get("ETag");
    }
    say(reply.ok || reply.status === 304 ? "Live: changes show up by themselves." : "This page is gone.");
  } catch {
    say("The backend does not answer. This is how things were when it last did.");
  }
  // A page that is long in the making must not keep the backend from its work.
  const pause = Math.max(INTERVAL_MS, 10 * (performance.now() - start));
  if (!document.hidden) timer = setTimeout(look, pause);
}

function say(text) {
  if (line.textContent !== text) line.textContent = text;
}

// The token of the link has done its work, and would be copied along with the address.
if (location.search) history.replaceState(null, "", location.pathname);
document.addEventListener("visibilitychange", () => document.hidden || look());
look();
"""

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M1 13 6 7l3 3 6-8'"
    " fill='none' stroke='%232f5fb3' stroke-width='2.5' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E"
)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash(STYLE)}",
            f"script-src {_hash(SCRIPT)}",
            "connect-src 'self'",
            "img-src data:",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
