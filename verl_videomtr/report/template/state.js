// What is shown, kept in the URL's fragment: whoever gets the link sees the same.

const VIEWS = ["gallery", "episode", "run", "table"];
const SORTS = {
  recorded: ["as recorded", (a, b) => a.place - b.place],
  latest: ["latest step first", (a, b) => (b.step ?? -1) - (a.step ?? -1)],
  best: ["highest reward", (a, b) => value(b.reward) - value(a.reward)],
  worst: ["lowest reward", (a, b) => value(a.reward) - value(b.reward)],
  iou: ["highest IoU", (a, b) => value(b.iou) - value(a.iou)],
  blind: ["lowest IoU", (a, b) => (a.iou ?? 2) - (b.iou ?? 2)],
  turns: ["most turns", (a, b) => b.turns - a.turns],
  invalid: ["most invalid turns", (a, b) => b.invalid.length - a.invalid.length],
  sample: ["by sample", (a, b) => (a.sample < b.sample ? -1 : a.sample > b.sample ? 1 : a.place - b.place)],
};
const TEXT_KEYS = ["view", "e", "with", "q", "run", "phase", "result", "turns", "source", "group", "gate", "flag", "sort"];
const NUMBER_KEYS = ["step_from", "step_to", "reward_from", "reward_to"];
const FILTER_KEYS = [...TEXT_KEYS.slice(3, -1), ...NUMBER_KEYS];

let state = {};

function value(number) {
  return typeof number === "number" ? number : -Infinity;
}

function readState() {
  const found = new URLSearchParams(location.hash.slice(1));
  state = {};
  for (const key of [...TEXT_KEYS, ...NUMBER_KEYS]) {
    const text = found.get(key);
    if (text !== null && text !== "" && (TEXT_KEYS.includes(key) || Number.isFinite(Number(text)))) state[key] = text;
  }
  if (!VIEWS.includes(state.view)) state.view = cards.length ? "gallery" : "run";
  if (!Object.hasOwn(SORTS, state.sort || "")) delete state.sort;
}

/** Write a state as a fragment; `change` overrides the present one. */
function fragment(change = {}) {
  const next = { ...state, ...change };
  const words = new URLSearchParams();
  for (const key of [...TEXT_KEYS, ...NUMBER_KEYS]) {
    if (next[key] !== undefined && next[key] !== null && next[key] !== "") words.set(key, next[key]);
  }
  return `#${words}`;
}

/** Change what is shown; filters replace the present entry of the history, views add one. */
function go(change, { replace = false } = {}) {
  const next = fragment(change);
  if (next === location.hash) return;
  if (replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  readState();
  draw();
}

const TESTS = {
  run: (card, text) => String(card.run) === text,
  phase: (card, text) => card.phase === text,
  result: (card, text) => resultOf(card) === text,
  turns: (card, text) => String(card.turns) === text,
  source: (card, text) => card.source === text,
  group: (card, text) => card.groups.includes(text),
  gate: (card, text) => (text === "open" ? card.gate === true : card.gate === false),
  flag: (card, text) => (text === "truncated" ? card.truncated : text === "invalid" ? card.invalid.length > 0 : card.invalid.includes(text)),
  step_from: (card, text) => card.step !== null && card.step >= Number(text),
  step_to: (card, text) => card.step !== null && card.step <= Number(text),
  reward_from: (card, text) => value(card.reward) >= Number(text),
  reward_to: (card, text) => value(card.reward) <= Number(text),
  q: (card, text) => text.toLowerCase().split(/\s+/).every((word) => hay(card).includes(word)),
};

function resultOf(card) {
  return card.right === null ? "lost" : card.right ? "right" : "wrong";
}

function hay(card) {
  card.hay ??= [card.question, card.answer, card.truth, card.sample, card.source, ...card.groups].join("\n").toLowerCase();
  return card.hay;
}

/** The episodes that pass the filters, sorted. */
function filtered() {
  const active = FILTER_KEYS.filter((key) => state[key] !== undefined).map((key) => [TESTS[key], state[key]]);
  const found = cards.filter((card) => active.every(([test, text]) => test(card, text)));
  if (state.sort && state.sort !== "recorded") found.sort(SORTS[state.sort][1]);
  return found;
}
