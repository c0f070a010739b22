// The frame of the page: tabs, notes, colours, keys, and what is drawn when the fragment changes.

const LABELS = { gallery: "Gallery", episode: "Episode", run: "Run", table: "Table" };

function draw() {
  const main = document.getElementById("main");
  hideTip();
  clear(document.getElementById("tabs"), VIEWS.map((view, k) => h("a", {
    href: fragment({ view }), "aria-current": state.view === view ? "page" : null, title: `key ${k + 1}`,
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      go({ view });
    },
  }, LABELS[view])));
  const focused = document.activeElement && document.activeElement.id;
  const caret = focused === "search" ? document.activeElement.selectionStart : null;
  if (state.view === "episode") drawEpisode(main).catch(complain);
  else ({ gallery: drawGallery, run: drawRun, table: drawTable })[state.view](main);
  if (drawn !== state.view || (state.view === "episode" && drawnEpisode !== state.e)) {
    if (state.view !== "gallery") scrollTo(0, 0);
  }
  drawn = state.view;
  drawnEpisode = state.e;
  if (focused && !document.activeElement?.id) {
    const again = document.getElementById(focused);
    again?.focus({ preventScroll: true });
    if (caret !== null && again) again.setSelectionRange(caret, caret);
  }
}
let drawn = null;
let drawnEpisode = null;

function complain(error) {
  clear(document.getElementById("main"), h("p", { class: "empty" }, seenText(`This could not be shown: ${error.message}`)));
}

function drawNotes() {
  if (!index.notes.length) return;
  clear(document.getElementById("notes"), h("details", { class: "notes" }, h("summary", {}, said("span", {}, index.notes[0]), index.notes.length > 1 ? ` (and ${index.notes.length - 1} more)` : ""),
    h("ul", {}, index.notes.slice(1).map((note) => said("li", {}, note)))));
}

const THEMES = ["auto", "light", "dark"];

function theme(next) {
  try {
    if (next) localStorage.setItem("videomtr-theme", next);
    next = localStorage.getItem("videomtr-theme") || "auto";
  } catch {
    next = next || "auto"; // a page opened as a file may have no storage
  }
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  return next;
}

function drawTools() {
  const current = document.documentElement.dataset.theme || "auto";
  const made = new Date(index.made);
  clear(document.getElementById("tools"),
    h("span", { class: "muted made", title: "when this page was made" }, `${made.toLocaleDateString("en-CA")} ${made.toLocaleTimeString("en-GB").slice(0, 5)}`),
    index.follow_seconds ? h("span", { class: "live" }, "live") : null,
    h("button", { type: "button", id: "theme", title: "key t", onclick: nextTheme }, `Colours: ${current}`),
    h("button", { type: "button", id: "keys", title: "key ?", "aria-label": "Keyboard", onclick: openHelp }, "?"));
}

function nextTheme() {
  const current = document.documentElement.dataset.theme || "auto";
  theme(THEMES[(THEMES.indexOf(current) + 1) % THEMES.length]);
  drawTools();
}

const KEYS = [
  ["1 2 3 4", "gallery, episode, run, table"], ["/", "search"], ["arrows", "move between cards"], ["Enter", "open a card"],
  ["j, k", "next and previous episode"], ["c", "compare with the nearest, or close it"], ["Escape", "back to the gallery"], ["t", "colours"], ["?", "this list"],
];

function openHelp() {
  const dialog = document.getElementById("help");
  clear(dialog, h("h2", { id: "help-title" }, "Keys"), h("dl", { class: "keys" }, KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  dialog.showModal();
}

function compareNearest() {
  const card = byId.get(state.e);
  if (!card) return;
  const to = elsewhereOf(card)[0] || rolloutsOf(card)[0];
  if (state.with) go({ with: undefined });
  else if (to) go({ with: to.id });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const place = document.activeElement?.dataset?.place;
  const grid = document.querySelector(".cards");
  const moves = { ArrowRight: { cards: 1 }, ArrowLeft: { cards: -1 }, ArrowDown: { rows: 1 }, ArrowUp: { rows: -1 } };
  const calls = {
    1: () => go({ view: "gallery" }), 2: () => go({ view: "episode" }), 3: () => go({ view: "run" }), 4: () => go({ view: "table" }),
    "/": () => { if (state.view !== "gallery") go({ view: "gallery" }); const filter = document.querySelector(".filters"); if (filter) filter.open = true; document.getElementById("search")?.focus(); },
    "?": openHelp, t: nextTheme,
    j: () => state.view === "episode" && turnPage(1), k: () => state.view === "episode" && turnPage(-1),
    c: () => state.view === "episode" && compareNearest(),
    Escape: () => state.view === "episode" && go({ view: "gallery", e: undefined, with: undefined }),
  };
  if (grid?.move && moves[event.key] && (place !== undefined || document.activeElement === document.body || document.activeElement?.id === "main")) {
    event.preventDefault();
    if (place === undefined) grid.move(0, {});
    else grid.move(Number(place), moves[event.key]);
  } else if (Object.hasOwn(calls, event.key)) {
    event.preventDefault();
    calls[event.key]();
  }
}

addEventListener("popstate", () => { readState(); draw(); });
document.addEventListener("keydown", onKey);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
theme();
readState();
drawTools();
drawNotes();
draw();
// The page is rewritten while a run goes on: reload it when nobody is in the middle of something.
if (index.follow_seconds) setInterval(() => { if (!document.querySelector("input:focus, dialog[open]")) location.reload(); }, index.follow_seconds * 1000);
