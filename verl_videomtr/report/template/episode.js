// One episode turn by turn, what it was paid, and those to set beside it.

async function drawEpisode(main) {
  const card = byId.get(state.e) || striking();
  if (!card) {
    clear(main, h("p", { class: "empty" }, "These runs hold no episodes."));
    return;
  }
  const other = state.with ? byId.get(state.with) : null;
  const wanted = location.hash;
  const shown = await Promise.all([card, other].filter(Boolean).map(async (item) => [item, await detailOf(item), await filmOf(item)]));
  if (wanted !== location.hash) return;
  const [, detail] = shown[0];
  clear(main, h("article", { class: `episode ${other ? "two" : ""}` },
    pager(card),
    h("header", { class: "asked" },
      said("h2", { class: "question" }, apart(detail.question).question),
      options(card, detail, other)),
    h("div", { class: "columns" },
      h("div", { class: "sides" }, shown.map(([item, its, film]) => side(item, its, film, Boolean(other)))),
      h("aside", { class: "beside", "aria-label": "Other episodes" },
        related(card, other, "The other rollouts of this prompt", rolloutsOf(card)),
        related(card, other, "This sample elsewhere", elsewhereOf(card)),
        about(card, detail)))));
}

/** The episode that opens where none is named: the best paid of those that pass the filters. */
function striking() {
  return filtered().reduce((best, card) => (!best || value(card.reward) > value(best.reward) ? card : best), null) || cards[0];
}

function pager(card) {
  if (state.e !== card.id) state.e = card.id;
  const list = filtered();
  const place = list.indexOf(card);
  const step = (change, key, text) => {
    const to = place < 0 ? undefined : list[place + change];
    return h("button", { type: "button", disabled: !to, title: `key ${key}`, onclick: () => to && go({ e: to.id, with: undefined }) }, text);
  };
  return h("div", { class: "pager" },
    h("button", { type: "button", onclick: () => go({ view: "gallery", e: undefined, with: undefined }) }, "← Gallery"),
    h("span", { class: "grow" }),
    place >= 0 ? h("span", { class: "muted" }, `${(place + 1).toLocaleString("en")} of ${list.length.toLocaleString("en")}`) : null,
    step(-1, "k", "Previous"), step(1, "j", "Next"));
}

function turnPage(change) {
  const list = filtered();
  const place = list.findIndex((card) => card.id === state.e);
  const to = place < 0 ? list[0] : list[place + change];
  if (to) go({ view: "episode", e: to.id, with: undefined });
}

function options(card, detail, other) {
  const list = detail.options.length ? detail.options : apart(detail.question).options;
  if (!list.length) return h("p", { class: "verdict" }, "right answer: ", said("b", {}, card.truth));
  const same = (option, letter, answer) => answer !== null && (answer === letter || answer === option || answer.startsWith(`${letter}.`));
  return h("ul", { class: "options" }, list.map((option, k) => {
    const letter = String.fromCharCode(65 + k);
    const text = option.replace(/^\(?[A-Z][.)]\s*/, "");
    const right = same(text, letter, card.truth);
    const given = same(text, letter, card.answer);
    const also = other && same(text, letter, other.answer);
    return h("li", { class: `${right ? "is-right" : ""} ${given ? "is-given" : ""}` }, h("b", {}, `${letter} `), said("span", {}, text),
      right ? h("span", { class: "tag ok" }, "right") : null,
      given ? h("span", { class: "tag" }, other ? "left’s answer" : "its answer") : null,
      also ? h("span", { class: "tag" }, "right side’s answer") : null);
  }));
}

function side(card, detail, film, compact) {
  const parts = [h("div", { class: "side-head" }, badge(card), index.runs.length > 1 || compact ? runMark(card.run) : null,
    h("span", { class: "where" }, index.runs.length > 1 ? said("span", {}, index.runs[card.run].name) : null,
      [index.runs.length > 1 ? ", " : "", card.phase, card.step === null ? "" : `, step ${card.step}`].join("")),
    card.lost ? null : h("span", {}, "answered ", card.answer === null ? h("i", {}, "nothing") : said("b", {}, card.answer), " (right: ", said("b", {}, card.truth), ")"),
    h("span", { class: "reward" }, `reward ${number(card.reward)}`))];
  if (card.lost) {
    parts.push(h("p", { class: "lost-why" }, "This episode was lost (", said("b", {}, card.lost), "): ", said("span", {}, detail.error || "no reason was recorded")));
    return h("section", { class: "side" }, parts);
  }
  parts.push(timeline(card, detail, film), legend(card, detail));
  if (film.problem) parts.push(h("p", { class: "muted small" }, "No pictures: ", said("span", {}, film.problem)));
  parts.push(payment(card, detail), detail.turn_list.map((turn, k) => turnNode(card, detail, film, turn, k)),
    detail.turns_left_out ? h("p", { class: "ending muted" }, `${plural(detail.turns_left_out, "later turn")} left out.`) : null, ending(card, detail));
  return h("section", { class: "side", "aria-label": seenText(`Episode ${card.id}`) }, parts);
}

function legend(card, detail) {
  const items = [];
  if (card.evidence || detail.segments) items.push(h("span", { class: "key" }, h("i", { class: "swatch evidence-swatch" }), "where the evidence lies"));
  items.push(h("span", { class: "key" }, h("i", { class: "swatch tick-swatch" }), "a frame shown"));
  if (detail.turn_list.some((turn) => turn.range)) items.push(h("span", { class: "key" }, h("i", { class: "swatch range-swatch" }), "the stretch asked for"));
  return h("div", { class: "legend" }, items);
}

const COMPONENTS = { acc: "answer", fms: "frames", format: "format", bonus: "bonus" };

/** What each turn was paid, as bars from a common zero. */
function payment(card, detail) {
  const turns = detail.turn_list;
  const split = turns.map((turn) => {
    const parts = Object.entries(turn.components).filter(([name, amount]) => name in COMPONENTS && typeof amount === "number");
    if (!parts.length) parts.push(["reward", typeof turn.reward === "number" ? turn.reward : 0]);
    if (typeof turn.bonus === "number" && turn.bonus) parts.push(["bonus", turn.bonus]);
    return parts;
  });
  const plus = split.map((parts) => parts.reduce((sum, [, amount]) => sum + Math.max(0, amount), 0));
  const minus = split.map((parts) => parts.reduce((sum, [, amount]) => sum + Math.min(0, amount), 0));
  const top = Math.max(0.1, ...plus);
  const low = Math.min(0, ...minus);
  const reach = top - low;
  const rows = turns.map((turn, k) => {
    let up = 0;
    let down = 0;
    const bars = split[k].map(([name, amount]) => {
      const from = amount >= 0 ? up : down + amount;
      if (amount >= 0) up += amount; else down += amount;
      return s("rect", { x: ((from - low) / reach) * 200, y: 2, width: (Math.abs(amount) / reach) * 200, height: 12, class: `pay ${name}` },
        s("title", {}, `${COMPONENTS[name] || name} ${signed(amount)}`));
    });
    const told = split[k].filter(([name, amount]) => amount && name !== "reward").map(([name, amount]) => `${COMPONENTS[name] || name} ${signed(amount)}`).join(", ");
    return h("tr", {}, h("th", { scope: "row" }, `turn ${k + 1}`),
      h("td", { class: "barcell" }, s("svg", { viewBox: "0 0 200 16", preserveAspectRatio: "none", "aria-hidden": "true" }, bars,
        s("line", { x1: (-low / reach) * 200, x2: (-low / reach) * 200, y1: 0, y2: 16, class: "axis" }))),
      h("td", { class: "num" }, number(turn.reward)), h("td", { class: "told" }, told),
      hasAny(turns, "advantage") ? h("td", { class: "num" }, signed(turn.advantage)) : null,
      hasAny(turns, "value") ? h("td", { class: "num" }, number(turn.value)) : null,
      hasAny(turns, "return") ? h("td", { class: "num" }, number(turn.return)) : null);
  });
  const extra = [["advantage", "advantage"], ["value", "critic’s value"], ["return", "return"]].filter(([name]) => hasAny(turns, name));
  const gate = card.gate === null ? null : h("span", { class: `gate ${card.gate ? "open" : "closed"}` }, card.gate ? "gate open" : "gate closed",
    h("span", { class: "muted" }, card.gate ? ": the turns before the answer are paid" : ": a wrong answer takes the pay of the turns before it"));
  return h("section", { class: "payment" }, h("h3", {}, "What it was paid"), gate,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": seenText(`Payment by turn of ${card.id}`) }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "turn")), h("td", {}), h("th", { scope: "col", class: "num" }, "reward"), h("th", { scope: "col" }, "for"),
      extra.map(([, label]) => h("th", { scope: "col", class: "num" }, label)))), h("tbody", {}, rows))));
}

function hasAny(turns, name) {
  return turns.some((turn) => turn[name] !== null && turn[name] !== undefined);
}

function turnNode(card, detail, film, turn, k) {
  const dense = turn.frames.length > 10;
  return h("section", { class: "turn", "data-turn": k, "aria-label": seenText(`Turn ${k + 1} of ${card.id}`) },
    h("div", { class: "turn-head" }, h("span", { class: `dot look${Math.min(k, 4)}` }), h("h3", {}, `Turn ${k + 1}`),
      h("span", { class: "muted" }, k === 0 ? `overview of ${plural(turn.frames.length, "frame")}` : turn.frames.length ? `${plural(turn.frames.length, "frame")} brought back` : "no new frames"),
      h("span", { class: "grow" }), h("span", { class: "num", title: "reward of this turn" }, signed(turn.reward))),
    turn.frames.length ? h("div", { class: `frames ${dense ? "dense" : ""}` }, turn.frames.map((frame) => inEvidence(card, detail, film, frame, picture(film, frame)))) : null,
    turn.message ? h("details", { class: "told-by" }, h("summary", {}, "What the environment said"), message(turn.message, film)) : null,
    written(turn),
    h("div", { class: "facts" },
      turn.range ? fact("asked for", askedFor(turn.range, film)) : null,
      turn.iou === null ? null : fact("IoU of what came back", number(turn.iou)),
      turn.invalid ? fact("invalid", seenText(`${turn.invalid}: ${turn.reason || ""}`)) : null,
      turn.response_tokens === null ? null : fact("tokens", `${number(turn.response_tokens)} written${turn.prompt_tokens === null ? "" : `, ${number(turn.prompt_tokens)} read`}`),
      turn.finish && turn.finish !== "stop" ? fact("finish", seenText(turn.finish)) : null));
}

function inEvidence(card, detail, film, frame, node) {
  const time = film.times ? film.times[frame] : null;
  const inside = detail.segments && time !== null
    ? detail.segments.some(([from, to]) => from <= time && time <= to)
    : (card.evidence || []).some(([from, to]) => from <= frame && frame <= to);
  if (inside) {
    node.classList.add("hit");
    node.title = "this frame lies in the evidence";
  }
  return node;
}

function askedFor([from, to], film) {
  return `frames ${number(from)} to ${number(to)}${film.times ? ` (${clock(film.times[from])} to ${clock(film.times[to])})` : ""}`;
}

function fact(name, text) {
  return h("span", { class: "fact" }, h("span", { class: "muted" }, `${name} `), text);
}

function message(parts, film) {
  return h("div", { class: "message" }, parts.map((part) => (typeof part === "number" ? picture(film, part) : said("span", {}, part))));
}

const TAGS = /<(think|retrieve|retrive|answer|tool_call)>([\s\S]*?)(?:<\/\1>|$)/g;

/** A response: its thought and action apart, and what stands outside them. */
function written(turn) {
  const parts = [];
  let end = 0;
  const loose = (text) => {
    if (text.trim()) parts.push(h("p", { class: "loose" }, h("span", { class: "muted small" }, "outside the tags: "), said("span", {}, text.trim())));
  };
  for (const found of turn.response.matchAll(TAGS)) {
    loose(turn.response.slice(end, found.index));
    end = found.index + found[0].length;
    const [, tag, text] = found;
    if (tag === "think") parts.push(said("p", { class: "thought" }, text.trim() || "(an empty thought)"));
    else parts.push(h("p", { class: `did ${tag}` }, h("span", { class: "verb" }, { answer: "answers", tool_call: "calls" }[tag] || "looks at"), said("code", {}, text.trim())));
  }
  loose(turn.response.slice(end));
  if (!parts.length) parts.push(h("p", { class: "loose muted" }, "(an empty response)"));
  return h("div", { class: "written" }, parts,
    h("details", { class: "raw" }, h("summary", {}, `As written (${plural(turn.length, "character")})`), said("pre", { tabindex: "0" }, turn.response)));
}

function ending(card, detail) {
  const words = { answered: "It ended with an answer.", turn_limit: "It ended without an answer: the turns ran out.", length_limit: "It was truncated: the context or response length ran out." };
  return h("p", { class: "ending muted" }, words[detail.stop] || seenText(detail.stop ? `It ended: ${detail.stop}.` : ""));
}

function rolloutsOf(card) {
  return cards.filter((other) => other !== card && other.run === card.run && other.phase === card.phase && other.step === card.step && other.prompt === card.prompt);
}

function elsewhereOf(card) {
  const rollouts = new Set(rolloutsOf(card));
  const found = cards.filter((other) => other !== card && other.sample === card.sample && other.source === card.source && !rollouts.has(other));
  const near = (other) => (other.run === card.run ? 1 : 0) + (other.phase === card.phase ? 0 : 0.5) + Math.min(0.4, Math.abs((other.step ?? 0) - (card.step ?? 0)) / 1e6);
  return found.sort((a, b) => near(a) - near(b));
}

function related(card, other, title, list) {
  if (!list.length) return null;
  const most = 16;
  return h("section", { class: "related" }, h("h3", {}, title),
    h("p", { class: "muted small" }, `${plural(list.length, "episode")}, ${list.filter((item) => item.right).length} right`),
    h("ul", {}, list.slice(0, most).map((item) => {
      const line = h("div", { class: "line" }, strip(item, filmNow(item) || NO_FILM, 220));
      filmOf(item).then((film) => clear(line, strip(item, film, 220)), () => {});
      const active = other === item;
      return h("li", { class: active ? "active" : "" },
        h("a", { href: fragment({ e: item.id, with: undefined }), class: "row", onclick: (event) => { if (!event.ctrlKey && !event.metaKey) { event.preventDefault(); go({ e: item.id, with: undefined }); } } },
          badge(item), index.runs.length > 1 ? runMark(item.run) : null,
          h("span", { class: "where" }, item.step === null ? item.phase : `${item.phase === card.phase ? "" : `${item.phase}, `}step ${item.step}`),
          h("span", { class: "reward" }, number(item.reward)), line),
        h("button", { type: "button", class: "compare", "aria-pressed": active ? "true" : "false", onclick: () => go({ with: active ? undefined : item.id }) }, active ? "Close" : "Compare"));
    })),
    list.length > most ? h("p", { class: "muted small" }, `and ${list.length - most} more`) : null);
}

function about(card, detail) {
  const rows = [
    ["sample", card.sample], ["data source", card.source], ["group", card.groups.join(", ")], ["question type", detail.question_type], ["video", detail.video],
    ["split", detail.split], ["prompt id", detail.uid], ["rollout", detail.session],
    ["policy version", detail.policy_version && [...new Set([detail.policy_version.min, detail.policy_version.max])].join(" to ")],
    ["frame budget", detail.frame_budget && `${card.frames.flat().length} of ${number(detail.frame_budget)} frames`],
    ["overview’s IoU", detail.initial_iou === null || detail.initial_iou === undefined ? null : number(detail.initial_iou)],
    ...Object.entries(detail.components || {}).map(([name, amount]) => [`reward: ${name}`, number(amount)]),
    ...Object.entries(detail.seconds || {}).map(([name, amount]) => [`seconds: ${name}`, number(amount)]),
  ].filter(([, text]) => text !== null && text !== undefined && text !== "");
  return h("section", { class: "about" }, h("h3", {}, "About it"),
    h("dl", {}, rows.map(([name, text]) => [h("dt", {}, seenText(name)), said("dd", {}, text)])));
}
