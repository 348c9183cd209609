// What pages do with JavaScript; without it every link and form works as a page of its own.
"use strict";

const by = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// ── times: the reader's own zone is told by the title ──
function localTimes(root) {
  for (const time of all("time[datetime]", root)) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.valueOf())) time.title = `${time.dateTime.replace("T", " ").replace("+00:00", " UTC")}\n${at.toLocaleString()} here`;
  }
}

// ── theme ──
function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  document.dispatchEvent(new CustomEvent("themechange"));
}

// ── live: the database wakes the page, which asks for itself again and takes over what has changed ──
const live = {
  source: null, paused: sessionStorage.getItem("live") === "paused", stale: false, asking: false,

  start() {
    if (!by("#live") || !by(".live")) return;
    this.show(this.paused ? "paused" : "lost");
    this.listen();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.source.close() : this.wakeUp()));
    addEventListener("pagehide", () => this.source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.wakeUp(); });
  },

  // A browser has six connections for a host: only the tab that is looked at holds one.
  listen() {
    const source = this.source = new EventSource("/ui/events");
    source.addEventListener("open", () => { if (!this.paused) this.show("live"); });
    source.addEventListener("changed", () => this.changed());
    source.addEventListener("error", () => {
      if (!this.paused) this.show("lost");
      // The browser asks again by itself, but not after an answer that was no stream.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (source === this.source && !document.hidden) this.listen(); }, 3000);
    });
  },

  wakeUp() {
    this.source.close();
    this.listen();
    this.changed();
  },

  show(state) {
    const badge = by(".live");
    if (!badge) return;
    badge.dataset.state = state;
    by(".live-state", badge).textContent = { live: "live", paused: "paused", lost: "no connection" }[state];
    const button = by("#pause");
    button.textContent = this.paused ? "Resume" : "Pause";
    button.setAttribute("aria-pressed", String(this.paused));
  },

  // Nobody's reading is disturbed: not while text or rows are selected, a dialogue is open or a field of the page is in use.
  busy() {
    const selection = getSelection();
    const root = by("#live");
    return document.hidden || !!by("dialog[open]") || !!by("input[name=id]:checked", root)
      || (selection && !selection.isCollapsed) || !!by(":is(input:not([type=checkbox]),select,textarea):focus", root);
  },

  async changed() {
    if (this.paused || this.busy() || this.asking) { this.stale = true; return; }
    this.stale = false;
    this.asking = true;
    try {
      await htmx.ajax("GET", location.pathname + location.search,
        { source: "#live", target: "#live", select: "#live", swap: "morph:outerHTML", headers: { "X-Live": "1" } });
    } finally { this.asking = false; }
  },

  // What this page was made of is not the newest: it says in how long there may be something newer.
  again() {
    const milliseconds = Number(by("#live")?.dataset.again);
    if (milliseconds) setTimeout(() => { this.stale = true; }, milliseconds);
  },

  toggle() {
    this.paused = !this.paused;
    sessionStorage.setItem("live", this.paused ? "paused" : "on");
    this.show(this.paused ? "paused" : "live");
    if (!this.paused) this.changed();
  },
};
setInterval(() => { if (live.stale) live.changed(); }, 1500);

document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.id !== "live" || event.detail.isError) return;
  if (by("#live [data-failed]")) { event.detail.shouldSwap = false; location.reload(); }
  else if (live.paused || live.busy()) { event.detail.shouldSwap = false; live.stale = true; }
});
document.addEventListener("htmx:afterSwap", (event) => {
  const target = event.detail.target;
  if (target.id === "live") {
    ready(by("#live"));
    live.again();
    live.show(live.paused ? "paused" : "live");
    document.dispatchEvent(new CustomEvent("livechange"));
  } else if (target.id === "dialog") {
    if (!target.firstElementChild) { location.href = event.detail.pathInfo.requestPath; return; }
    target.showModal();
    ready(target);
  }
});
for (const trouble of ["htmx:responseError", "htmx:sendError"]) {
  document.addEventListener(trouble, (event) => {
    if (event.detail.target?.id === "dialog") location.href = event.detail.pathInfo.requestPath;
    else if (!live.paused && !(event.detail.xhr?.status >= 400 && event.detail.xhr.status < 500)) live.show("lost");
  });
}
// An open <details> stays as the reader has left it.
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.tagName === "DETAILS");

// ── keyboard ──
const goes = Object.fromEntries(all("nav a[data-key]").map((link) => [link.dataset.key, link.href]));
let going = 0;

function moveRow(step) {
  const rows = all("tbody tr[data-href]");
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[Math.max(0, Math.min(rows.length - 1, now < 0 ? (step > 0 ? 0 : rows.length - 1) : now + step))];
  (by("a[href]", row) || row).focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]),select,textarea,dialog")) return;
  const key = event.key;
  if (Date.now() - going < 1500 && goes[key]) { going = 0; event.preventDefault(); location.href = goes[key]; return; }
  going = 0;
  if (key === "g") going = Date.now();
  else if (key === "/") { event.preventDefault(); by("#search")?.focus(); }
  else if (key === "?") { event.preventDefault(); by("#keys").showModal(); }
  else if (key === "p" && by("#pause")) live.toggle();
  else if (key === "j") moveRow(1);
  else if (key === "k") moveRow(-1);
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) { event.preventDefault(); event.target.closest("dialog").close(); return; }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const text = copy.parentElement.querySelector("code").textContent;
    navigator.clipboard?.writeText(text).then(() => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); });
    return;
  }
  if (event.target.closest("#theme")) toggleTheme();
  if (event.target.closest("#pause")) live.toggle();
  if (event.target.closest("#help")) by("#keys").showModal();
});

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submit], input[data-submit]")) event.target.form.requestSubmit();
  if (event.target.matches("input[data-all]")) for (const box of all("input[name=id]")) box.checked = event.target.checked;
  if (event.target.matches("input[data-all], input[name=id]")) showSelection();
});

function showSelection() {
  const count = all("input[name=id]:checked").length;
  for (const place of all("[data-selected]")) { place.textContent = count ? `${count} selected` : "none selected"; }
  for (const button of all("[data-needs-selection]")) button.disabled = !count;
}

function ready(root) {
  localTimes(root);
  for (const element of all("[data-js]", root)) element.hidden = false;
  showSelection();
}

document.addEventListener("DOMContentLoaded", () => { ready(document); live.start(); live.again(); });
