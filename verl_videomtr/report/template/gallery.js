// The gallery: filters, and one card an episode; only the cards in sight exist.

const CARD = { height: 246, gap: 14, least: 300 };
let galleryScroll = 0;
let galleryFocus = null;

function drawGallery(main) {
  const found = filtered();
  const grid = h("div", { class: "cards", role: "list", "aria-label": "Episodes" });
  const status = h("p", { class: "count", role: "status" },
    h("b", {}, found.length.toLocaleString("en")), ` of ${plural(cards.length, "episode")}`,
    found.length ? ` · ${percent(share(found, (card) => card.right === true))} right` : "");
  clear(main,
    h("div", { class: "gallery" },
      filters(),
      h("section", { class: "results", "aria-label": "Results" },
        h("div", { class: "bar" }, status, sorter()),
        found.length ? grid : h("p", { class: "empty" }, cards.length
          ? "No episode passes these filters. "
          : "These runs hold no episodes; the Run view has their curves. ",
          cards.length ? h("button", { onclick: resetFilters }, "Show all") : null))));
  if (found.length) virtual(grid, found);
}

function share(list, test) {
  return list.length ? list.filter(test).length / list.length : 0;
}

function resetFilters() {
  go(Object.fromEntries(FILTER_KEYS.map((key) => [key, undefined])), { replace: true });
}

/** Show the cards of `found` that are in sight, in rows of fixed height. */
function virtual(grid, found) {
  const shown = new Map();
  let columns = 1;
  const layout = () => {
    const width = grid.clientWidth;
    if (!width) return;
    const fit = Math.max(1, Math.floor((width + CARD.gap) / (CARD.least + CARD.gap)));
    if (fit !== columns || grid.dataset.width !== String(width)) {
      columns = fit;
      grid.dataset.width = width;
      for (const node of shown.values()) node.remove();
      shown.clear();
    }
    grid.style.height = `${Math.ceil(found.length / columns) * (CARD.height + CARD.gap)}px`;
    paint();
  };
  const paint = () => {
    if (!grid.isConnected) {
      removeEventListener("scroll", onscroll);
      watch.disconnect();
      return;
    }
    const row = CARD.height + CARD.gap;
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, (Math.floor(top / row) - 1) * columns);
    const last = Math.min(found.length, (Math.ceil((top + innerHeight) / row) + 1) * columns);
    const width = (grid.clientWidth - CARD.gap * (columns - 1)) / columns;
    for (const [place, node] of shown) {
      if ((place < first || place >= last) && !node.contains(document.activeElement)) {
        node.remove();
        shown.delete(place);
      }
    }
    const fresh = [];
    for (let place = first; place < last; place += 1) {
      if (shown.has(place)) continue;
      const node = h("div", { role: "listitem", class: "cell", "aria-posinset": place + 1, "aria-setsize": found.length },
        cardNode(found[place], place));
      node.style.width = `${width}px`;
      node.style.height = `${CARD.height}px`;
      node.style.transform = `translate(${(place % columns) * (width + CARD.gap)}px, ${Math.floor(place / columns) * row}px)`;
      shown.set(place, node);
      fresh.push(node);
    }
    if (fresh.length) grid.append(...fresh);
  };
  let waiting = false;
  const onscroll = () => {
    galleryScroll = scrollY;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      paint();
    });
  };
  grid.move = (from, change) => {
    const place = Math.max(0, Math.min(found.length - 1, from + (change.rows || 0) * columns + (change.cards || 0)));
    const at = grid.getBoundingClientRect().top + scrollY + Math.floor(place / columns) * (CARD.height + CARD.gap);
    const header = document.querySelector(".top").offsetHeight + 12;
    if (at < scrollY + header) scrollTo(0, at - header);
    else if (at + CARD.height > scrollY + innerHeight) scrollTo(0, at + CARD.height + 12 - innerHeight);
    paint();
    const link = shown.get(place)?.firstElementChild;
    if (link) link.focus({ preventScroll: true });
  };
  addEventListener("scroll", onscroll, { passive: true });
  const watch = new ResizeObserver(layout);
  watch.observe(grid);
  layout();
  if (galleryScroll) {
    scrollTo(0, galleryScroll);
    paint();
  }
  const before = galleryFocus === null ? -1 : found.findIndex((card) => card.id === galleryFocus);
  if (before >= 0 && shown.has(before)) shown.get(before).firstElementChild.focus({ preventScroll: true });
}

function cardNode(card, place) {
  const result = resultOf(card);
  const frames = h("div", { class: "thumbs", "aria-hidden": "true" });
  const line = h("div", { class: "line" });
  const dress = (film) => {
    clear(line, strip(card, film));
    clear(frames, stripFrames(card).map(([frame, turn]) => h("span", { class: `look${Math.min(turn, 4)}` }, picture(film, frame, { label: false }))));
  };
  const film = filmNow(card);
  if (film) dress(film);
  else {
    dress(NO_FILM);
    filmOf(card).then(dress, () => {});
  }
  return h("a", {
    class: `card ${result}`, href: fragment({ view: "episode", e: card.id, with: undefined }), "data-place": place,
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      galleryFocus = card.id;
      go({ view: "episode", e: card.id, with: undefined });
    },
  },
  h("div", { class: "head" },
    badge(card),
    index.runs.length > 1 ? runMark(card.run) : null,
    h("span", { class: "where" }, card.step === null ? card.phase : `${card.phase === "training" ? "" : `${card.phase}, `}step ${card.step}`),
    h("span", { class: "reward", title: "reward of the episode" }, number(card.reward))),
  said("p", { class: "question" }, apart(card.question).question.replace(/\s+/g, " ")),
  line, frames,
  h("div", { class: "foot" },
    card.lost ? said("span", { class: "flag" }, card.lost) : h("span", { class: "said-answer" }, "answered ",
      card.answer === null ? h("i", {}, "nothing") : said("b", {}, card.answer), " · right: ", said("b", {}, card.truth)),
    h("span", { class: "flags" },
      card.iou === null ? null : h("span", { title: "best IoU with the evidence" }, `IoU ${number(card.iou)}`),
      h("span", {}, plural(card.turns, "turn")),
      card.invalid.length ? h("span", { class: "flag" }, `${card.invalid.length} invalid`) : null,
      card.truncated ? h("span", { class: "flag" }, "truncated") : null)));
}

/** A question apart from its options: a sample's text holds both. */
function apart(text) {
  const lines = text.split("\n");
  let last = lines.length;
  while (last > 1 && /^\s*\(?[A-Z][.)]\s/.test(lines[last - 1])) last -= 1;
  return { question: lines.slice(0, last).join("\n"), options: lines.slice(last).map((line) => line.trim()) };
}

function badge(card) {
  const result = resultOf(card);
  return h("span", { class: `badge ${result}` }, h("span", { "aria-hidden": "true" }, { right: "✓ ", wrong: "✗ ", lost: "– " }[result]), result);
}

function letterOf(run) {
  return String.fromCharCode(65 + (run % 26));
}

/** A run's colour and letter: never colour alone. */
function runMark(run) {
  return h("span", { class: `run-mark r${run % 7}`, title: seenText(index.runs[run].name) }, letterOf(run));
}

/** Some of the frames that the policy was shown, each with its turn: some of the overview, more of the looks. */
function stripFrames(card) {
  const all = card.frames.map((frames, turn) => frames.map((frame) => [frame, turn]));
  const overview = all[0] || [];
  const looks = all.slice(1).flat();
  const most = 6;
  const ofLooks = pick(looks, Math.min(looks.length, overview.length ? most - 2 : most));
  return [...pick(overview, most - ofLooks.length), ...ofLooks];
}

function pick(list, count) {
  if (list.length <= count) return list;
  return Array.from({ length: count }, (_, k) => list[Math.round((k * (list.length - 1)) / Math.max(1, count - 1))]);
}

function sorter() {
  const select = h("select", { id: "sort", onchange: (event) => go({ sort: event.target.value }, { replace: true }) },
    Object.entries(SORTS).map(([key, [label]]) => h("option", { value: key, selected: key === (state.sort || "recorded") }, label)));
  return h("label", { class: "sorter" }, "Sort ", select);
}

function counted(key) {
  const counts = new Map();
  for (const item of cards.flatMap((card) => card[key])) counts.set(item, (counts.get(item) || 0) + 1);
  return [...counts].filter(([item]) => item !== "" && item !== null).sort(([a], [b]) => (a < b ? -1 : 1));
}

function choice(key, label, options) {
  if (options.length < 2) return null;
  return h("label", { class: "choice" }, h("span", {}, label),
    h("select", { id: `filter-${key}`, onchange: (event) => go({ [key]: event.target.value }, { replace: true }) },
      h("option", { value: "" }, "all"),
      options.map(([item, text]) => h("option", { value: item, selected: state[key] === String(item) }, seenText(text)))));
}

function toggles(key, label, options) {
  if (!options.length) return null;
  return h("div", { class: "toggles", role: "group", "aria-label": label }, options.map(([item, text]) =>
    h("button", {
      type: "button", "aria-pressed": state[key] === item ? "true" : "false", "data-filter": `${key}-${item}`,
      onclick: () => go({ [key]: state[key] === item ? undefined : item }, { replace: true }),
    }, text)));
}

function bounds(key, label, low, high, step) {
  if (!(low < high)) return null;
  const input = (end, hint) => h("input", {
    type: "number", step, id: `filter-${key}_${end}`, placeholder: number(hint), value: state[`${key}_${end}`],
    "aria-label": `${label} ${end === "from" ? "at least" : "at most"}`,
    onchange: (event) => go({ [`${key}_${end}`]: event.target.value }, { replace: true }),
  });
  return h("div", { class: "choice" }, h("span", {}, label), h("span", { class: "pair" }, input("from", low), "to", input("to", high)));
}

let filtersOpen = null;

function filters() {
  const names = (key) => counted(key).map(([item, count]) => [item, `${item} (${count.toLocaleString("en")})`]);
  const steps = cards.map((card) => card.step).filter((step) => step !== null);
  const rewards = cards.map((card) => card.reward).filter((reward) => typeof reward === "number");
  const extreme = (list, pickOne) => (list.length ? list.reduce((a, b) => pickOne(a, b)) : 0);
  const kinds = [...new Set(cards.flatMap((card) => card.invalid))].sort();
  const active = FILTER_KEYS.filter((key) => state[key] !== undefined).length;
  const search = h("input", {
    type: "search", id: "search", placeholder: "question, answer, sample", value: state.q, "aria-label": "Search questions, answers and samples",
    oninput: debounce((event) => go({ q: event.target.value }, { replace: true }), 150),
  });
  const open = filtersOpen ?? innerWidth >= 900;
  return h("details", { class: "filters", open, ontoggle: (event) => { filtersOpen = event.target.open; } },
    h("summary", {}, "Filters", active ? h("span", { class: "active" }, `${active} on`) : null),
    h("div", { class: "controls" },
      h("label", { class: "choice" }, h("span", {}, "Search ", h("kbd", {}, "/")), search),
      toggles("result", "Result", ["right", "wrong", "lost"].filter((name) => cards.some((card) => resultOf(card) === name)).map((name) => [name, name])),
      choice("run", "Run", index.runs.map((run, k) => [String(k), `${letterOf(k)} ${run.name}`])),
      choice("phase", "Phase", names("phase")),
      bounds("step", "Step", extreme(steps, Math.min), extreme(steps, Math.max), 1),
      bounds("reward", "Reward", extreme(rewards, Math.min), extreme(rewards, Math.max), 0.1),
      choice("turns", "Turns", names("turns")),
      choice("source", "Data source", names("source")),
      choice("group", "Group", names("groups")),
      toggles("gate", "Gate", cards.some((card) => card.gate === false) && cards.some((card) => card.gate === true) ? [["open", "gate open"], ["closed", "gate closed"]] : []),
      toggles("flag", "Trouble", [
        ...(kinds.length ? [["invalid", "any invalid"]] : []), ...kinds.map((kind) => [kind, seenText(kind).replace(/_/g, " ")]),
        ...(cards.some((card) => card.truncated) ? [["truncated", "truncated"]] : []),
      ]),
      active ? h("button", { class: "reset", type: "button", onclick: resetFilters }, "Clear filters") : null));
}

function debounce(call, wait) {
  let timer = 0;
  return (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(event), wait);
  };
}
