// Keeps a page up to date, and does what HTML alone cannot: the reader's own time, copying, sending a form on change.
//
// Only the parts whose server-made HTML has changed are replaced, so that what a reader has selected, opened or focused
// elsewhere stays. `known` keeps that HTML: the document's own differs once a <details> was opened.

const line = document.getElementById("live");
const parts = (root) => new Map(Array.from(root.querySelectorAll("[data-part]"), (part) => [part.dataset.part, part]));
const html = (root) => new Map(Array.from(parts(root), ([name, part]) => [name, part.outerHTML]));
let revision = document.documentElement.dataset.revision;
let known = html(document);
let source = null;
let timer = 0;
let isLooking = false;
let isWanted = false;
let notBefore = 0;
let isLeaving = false;

// --- what has changed -----------------------------------------------------------------------------

function keep(old, fresh) {
  for (const details of old.querySelectorAll("details[open]")) {
    const same = details.id && fresh.querySelector("#" + CSS.escape(details.id));
    if (same) same.open = true;
  }
  // A plot takes the new values, and keeps what the reader has zoomed to.
  const plots = new Map(Array.from(old.querySelectorAll("tellurio-plot"), (plot) => [plot.dataset.name, plot]));
  for (const plot of fresh.querySelectorAll("tellurio-plot")) {
    const same = plots.get(plot.dataset.name);
    if (!same?.take) continue;
    same.take(plot.querySelector("script").textContent);
    same.setAttribute("aria-label", plot.getAttribute("aria-label"));
    plot.replaceWith(same);
  }
}

function show(page) {
  const fresh = html(page);
  const main = page.querySelector("main");
  if (String([...fresh.keys()]) !== String([...known.keys()])) {
    keep(document, main);
    document.querySelector("main").replaceWith(main);
    localise(main);
  } else {
    const now = parts(document);
    for (const [name, part] of parts(page)) {
      if (fresh.get(name) === known.get(name)) continue;
      keep(now.get(name), part);
      part.classList.add("changed");
      now.get(name).replaceWith(part);
      localise(part);
    }
  }
  known = fresh;
  document.title = page.title;
  document.dispatchEvent(new CustomEvent("tellurio:shown"));
}

async function fetchPage(address, headers = {}) {
  const reply = await fetch(address, {headers, cache: "no-store"});
  if (reply.status === 401) location.reload();
  if (reply.ok) {
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    revision = reply.headers.get("ETag");
    show(page);
  }
  return reply;
}

async function look() {
  if (isLeaving) return;
  if (isLooking) {
    isWanted = true;
    return;
  }
  clearTimeout(timer);
  timer = 0;
  isLooking = true;
  isWanted = false;
  const start = performance.now();
  try {
    const reply = await fetchPage(location.pathname + location.search, {"If-None-Match": revision});
    say(reply.ok || reply.status === 304 ? "Live: changes show up by themselves." : "This page is gone.");
  } catch {
    say("The backend does not answer. This is how things were when it last did.");
  }
  isLooking = false;
  // A page that is long in the making must not keep the machine from its work.
  const end = performance.now();
  notBefore = end + Math.max(200, 10 * (end - start));
  if (isWanted) lookInTime();
}

function lookInTime() {
  if (isLooking) isWanted = true;
  else if (!timer) timer = setTimeout(look, Math.max(0, notBefore - performance.now()));
}

function listen() {
  source?.close();
  source = new EventSource(`${document.documentElement.dataset.root}events/`);
  source.onmessage = (event) => {
    if (event.data !== revision || !line.textContent.startsWith("Live")) lookInTime();
  };
  source.onerror = () => {
    // Not at once: a backend that stops should not be asked while it closes its connections.
    clearTimeout(timer);
    timer = setTimeout(look, Math.max(500, notBefore - performance.now()));
    // Where the answer was no stream, the browser does not try again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || listen(), 2000);
  };
}

function say(text) {
  if (line.textContent !== text) line.textContent = text;
}

// --- what HTML alone cannot do ----------------------------------------------------------------------

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    const pad = (value) => String(value).padStart(2, "0");
    const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
    time.textContent = `${day} ${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
    time.title = time.dateTime;
  }
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without leave, or not on this machine's own address: the older way.
    const field = document.createElement("textarea");
    field.value = text;
    button.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = said; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
  const link = event.target.closest("a[data-swap]");
  if (link && event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)) {
    event.preventDefault();
    swap(link.href);
  }
});

document.addEventListener("change", (event) => {
  event.target.closest("form[data-autosubmit]")?.requestSubmit();
});

document.addEventListener("submit", (event) => {
  // What is shown may be gone before the page that follows is here: do not ask for it in the meantime.
  if (event.target.method === "post") {
    source?.close();
    isLeaving = true;
  }
  const form = event.target.closest("form[data-swap]");
  if (!form) return;
  event.preventDefault();
  swap(`${location.pathname}?${new URLSearchParams(new FormData(form))}`);
});

// Another version of the same page: only what differs is replaced, and the reader's place stays.
async function swap(address) {
  try {
    const reply = await fetchPage(address);
    if (reply.ok) history.pushState(null, "", address);
    else location.assign(address);
  } catch {
    location.assign(address);
  }
}
document.addEventListener("tellurio:swap", (event) => swap(event.detail));
// Another address, so also where nothing has changed: without asking for changes only.
addEventListener("popstate", () => fetchPage(location.pathname + location.search).catch(() => look()));

// The token of the link has done its work, and would be copied along with the address.
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address.pathname + address.search + address.hash);
}
localise(document);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else listen();
});
// What lets this browser look is renewed by looking, and lasts for hours.
setInterval(look, 3600 * 1000);
// Last, so that it is no part of what a reader waits for.
if (document.readyState === "complete") listen();
else addEventListener("load", () => setTimeout(listen, 50));
