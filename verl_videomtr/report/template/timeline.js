// The video's time to scale: where the evidence lies, and what each turn showed.

const LOOKS = ["var(--overview)", "var(--look1)", "var(--look2)", "var(--look3)", "var(--look4)"];

function lookColour(turn) {
  return turn === 0 ? LOOKS[0] : LOOKS[1 + ((turn - 1) % (LOOKS.length - 1))];
}

/** How pool frames and seconds lie on a line of `width`: by time where it is known, else by index. */
function scaleOf(card, film, segments, width) {
  const pool = Math.max(1, card.pool);
  const times = film && film.times;
  const duration = (film && film.duration) || null;
  const timed = Boolean(times && duration);
  const half = timed ? duration / pool / 2 : 0.5;
  const at = (frame) => (timed ? times[Math.max(0, Math.min(frame, times.length - 1))] : frame + 0.5);
  const end = timed ? duration : pool;
  const x = (value) => Math.max(0, Math.min(width, (value / end) * width));
  let evidence = [];
  if (timed && segments) evidence = segments.map(([from, to]) => [x(from), x(to)]);
  else if (card.evidence) evidence = card.evidence.map(([from, to]) => [x(at(from) - half), x(at(to) + half)]);
  return { timed, duration, end, x, at, half, evidence };
}

/** The small timeline of a card: evidence above the line, frames by turn on it. */
function strip(card, film, width = 280) {
  const scale = scaleOf(card, film, card.segments, width);
  const height = 22;
  const marks = scale.evidence.map(([from, to]) =>
    s("rect", { x: from, y: 1, width: Math.max(2, to - from), height: 5, rx: 1, class: "evidence" }));
  marks.push(s("rect", { x: 0, y: 8, width, height: 12, rx: 2, class: "track" }));
  card.frames.forEach((frames, turn) => {
    const range = turn > 0 ? card.ranges[turn - 1] : null;
    if (range) {
      const from = scale.x(scale.at(range[0]) - scale.half);
      const to = scale.x(scale.at(range[1]) + scale.half);
      marks.push(s("rect", { x: from, y: 8, width: Math.max(2, to - from), height: 12, fill: lookColour(turn), opacity: 0.3 }));
    }
    for (const frame of frames) {
      const y = turn === 0 ? 10 : 9 + Math.min(turn - 1, 3) * 2.5;
      marks.push(s("rect", { x: scale.x(scale.at(frame)) - 1, y, width: 2, height: turn === 0 ? 8 : 6, fill: lookColour(turn) }));
    }
  });
  return s("svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, marks);
}

/** The timeline of the Episode view. */
function timeline(card, detail, film) {
  const holder = h("div", { class: "timeline" });
  const paint = () => {
    const width = holder.clientWidth || 800;
    clear(holder, timelineSvg(card, detail, film, width));
  };
  new ResizeObserver(() => paint()).observe(holder);
  return holder;
}

function timelineSvg(card, detail, film, width) {
  const left = width < 560 ? 74 : 128;
  const right = 14;
  const lane = 26;
  const inner = Math.max(60, width - left - right);
  const scale = scaleOf(card, film, detail.segments, inner);
  const hasEvidence = scale.evidence.length > 0;
  const rows = detail.turn_list.length + (hasEvidence ? 1 : 0);
  const bottom = 8 + rows * lane;
  const parts = [];
  const marksAt = scale.timed ? timeTicks(scale.end, inner / 70) : ticks(0, scale.end, inner / 60, true);
  for (const mark of marksAt) {
    const x = left + scale.x(mark);
    parts.push(s("line", { x1: x, x2: x, y1: 4, y2: bottom, class: "grid" }));
    const text = scale.timed ? (scale.end < 60 ? `${number(mark, 1)} s` : clock(mark, 0)) : `#${mark}`;
    parts.push(s("text", { x, y: bottom + 14, class: "tick", "text-anchor": "middle" }, text));
  }
  const row = (name, number) => {
    const y = 6 + number * lane;
    parts.push(s("text", { x: left - 8, y: y + lane / 2 + 3, class: "lane", "text-anchor": "end" }, name));
    parts.push(s("rect", { x: left, y: y + 4, width: inner, height: lane - 8, rx: 3, class: "track" }));
    return y;
  };
  if (hasEvidence) {
    const y = row("evidence", 0);
    for (const [from, to] of scale.evidence) {
      parts.push(s("rect", { x: left + from, y: y + 4, width: Math.max(3, to - from), height: lane - 8, rx: 2, class: "evidence" }));
      parts.push(s("rect", { x: left + from, y: y + 4, width: Math.max(3, to - from), height: bottom - y - 8, class: "shade" }));
    }
  }
  detail.turn_list.forEach((turn, k) => {
    const range = k > 0 ? detail.turn_list[k - 1].range : null;
    const y = row(k === 0 ? "overview" : turn.frames.length ? `look ${k}` : "nothing shown", k + (hasEvidence ? 1 : 0));
    if (range) {
      const from = scale.x(scale.at(range[0]) - scale.half);
      const to = scale.x(scale.at(range[1]) + scale.half);
      parts.push(s("rect", { x: left + from, y: y + 4, width: Math.max(3, to - from), height: lane - 8, rx: 2, fill: lookColour(k), opacity: 0.28 }));
    }
    for (const frame of turn.frames) {
      const mark = s("rect", {
        x: left + scale.x(scale.at(frame)) - 1.5, y: y + 5, width: 3, height: lane - 10, rx: 1, fill: lookColour(k), class: "mark",
        onpointerenter: () => point(k, frame, true), onpointerleave: () => point(k, frame, false),
      }, s("title", {}, scale.timed ? `frame ${frame}, ${clock(scale.at(frame))}` : `frame ${frame}`));
      parts.push(mark);
    }
  });
  const height = bottom + 20;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": inWords(card, detail, film, scale) }, parts);
}

function point(turn, frame, on) {
  for (const node of document.querySelectorAll(`[data-turn="${Number(turn)}"] [data-frame="${Number(frame)}"]`)) {
    node.classList.toggle("pointed", on);
  }
}

/** The timeline as a sentence. */
function inWords(card, detail, film, scale) {
  const place = (frame) => (scale.timed ? clock(scale.at(frame)) : `frame ${frame}`);
  const words = [scale.timed ? `Timeline of ${clock(scale.duration)}` : `Timeline of ${card.pool} frames`];
  if (detail.segments) words.push(`evidence at ${detail.segments.map(([a, b]) => `${clock(a)} to ${clock(b)}`).join(", ")}`);
  else if (card.evidence) words.push(`evidence at ${card.evidence.map(([a, b]) => `${place(a)} to ${place(b)}`).join(", ")}`);
  detail.turn_list.forEach((turn, k) => {
    if (!turn.frames.length) return;
    const what = k === 0 ? "overview" : `look ${k}`;
    words.push(`${what}: ${plural(turn.frames.length, "frame")} from ${place(turn.frames[0])} to ${place(turn.frames[turn.frames.length - 1])}`);
  });
  return words.join("; ");
}
