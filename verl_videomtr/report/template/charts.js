// Charts over training steps and the heat maps, as inline SVG.

const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 2", "10 4"];

/** One chart. Colour tells the run, the dash tells the line. */
function chartNode(chart) {
  const holder = h("div", { class: "plot" });
  const several = index.runs.length > 1 && chart.run === null;
  const values = chart.lines.flatMap((line) => line.points.map(([, y]) => y)).filter((y) => typeof y === "number");
  const steps = chart.lines.flatMap((line) => line.points.map(([step]) => step));
  if (!values.length) return null;
  const lines = chart.stacked ? stack(chart) : chart.lines.map((line) => ({ ...line, base: null }));
  const tops = lines.flatMap((line) => line.points.map(([, y]) => y)).filter((y) => typeof y === "number");
  let [low, high] = chart.share ? [0, 1] : [Math.min(0, ...tops), Math.max(...tops)];
  if (chart.share) low = Math.min(0, ...tops);
  if (low === high) high = low + 1;
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const paint = () => {
    const width = holder.clientWidth || 360;
    clear(holder, chartSvg({ chart, lines, width, low, high, first, last, several }));
  };
  new ResizeObserver(paint).observe(holder);
  return h("figure", { class: "chart" },
    h("figcaption", {}, chart.run !== null && index.runs.length > 1 ? [runMark(chart.run), " "] : null, h("b", {}, chart.title), h("span", { class: "muted" }, ` ${chart.unit}`)),
    holder, chartLegend(chart, several),
    chart.note ? h("p", { class: "muted small" }, chart.note) : null,
    values_table(chart));
}

function stack(chart) {
  const before = new Map();
  return chart.lines.map((line) => {
    const base = line.points.map(([step]) => [step, before.get(step) || 0]);
    const points = line.points.map(([step, y]) => [step, (before.get(step) || 0) + (typeof y === "number" ? y : 0)]);
    for (const [step, y] of points) before.set(step, y);
    return { ...line, points, base, own: line.points };
  });
}

function chartSvg({ chart, lines, width, low, high, first, last, several }) {
  const height = 190;
  const box = { left: 44, right: several ? 22 : 12, top: 8, bottom: 34 };
  const x = (step) => box.left + (last === first ? 0.5 : (step - first) / (last - first)) * (width - box.left - box.right);
  const y = (amount) => height - box.bottom - ((amount - low) / (high - low)) * (height - box.top - box.bottom);
  const parts = [];
  for (const mark of ticks(low, high, 4)) {
    parts.push(s("line", { x1: box.left, x2: width - box.right, y1: y(mark), y2: y(mark), class: "grid" }));
    parts.push(s("text", { x: box.left - 6, y: y(mark) + 4, class: "tick", "text-anchor": "end" }, shortNumber(mark)));
  }
  for (const mark of ticks(first, last, Math.max(2, width / 90), true)) {
    parts.push(s("text", { x: x(mark), y: height - box.bottom + 15, class: "tick", "text-anchor": "middle" }, mark));
  }
  parts.push(s("text", { x: (box.left + width - box.right) / 2, y: height - 4, class: "tick", "text-anchor": "middle" }, "training step"));
  const letters = [];
  for (const line of lines) {
    const place = chart.labels.indexOf(line.label);
    const points = line.points.filter(([, amount]) => typeof amount === "number");
    if (!points.length) continue;
    const path = points.map(([step, amount], k) => `${k ? "L" : "M"}${x(step).toFixed(1)} ${y(amount).toFixed(1)}`).join("");
    const tone = several ? `r${line.run % 7}` : `r${place % (line.base ? 8 : 7)}`;
    if (line.base) {
      const back = [...line.base].reverse().map(([step, amount]) => `L${x(step).toFixed(1)} ${y(amount).toFixed(1)}`).join("");
      parts.push(s("path", { d: `${path}${back}Z`, class: `area ${tone}` }));
    } else {
      const dash = several ? DASHES[place % DASHES.length] : DASHES[Math.floor(place / 7) % DASHES.length] || (place % 2 ? "6 3" : "");
      parts.push(s("path", { d: path, class: `curve ${tone}`, "stroke-dasharray": dash || null }));
      const [lastStep, lastAmount] = points[points.length - 1];
      if (several && place === 0) letters.push({ x: x(lastStep) + 5, y: y(lastAmount) + 4, run: line.run });
      if (points.length <= 12) for (const [step, amount] of points) parts.push(s("circle", { cx: x(step), cy: y(amount), r: 3, class: `point ${tone}` }));
    }
  }
  letters.sort((a, b) => a.y - b.y).forEach((letter, k) => {
    if (k) letter.y = Math.max(letter.y, letters[k - 1].y + 11); // letters of lines that end together stay apart
    parts.push(s("text", { x: letter.x, y: letter.y, class: "letter" }, letterOf(letter.run)));
  });
  const guide = s("line", { x1: 0, x2: 0, y1: box.top, y2: height - box.bottom, class: "guide", visibility: "hidden" });
  parts.push(guide);
  const svg = s("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": chartInWords(chart),
    onpointermove: (event) => {
      const at = first + ((event.clientX - svg.getBoundingClientRect().left - box.left) / (width - box.left - box.right)) * (last - first);
      const near = nearestStep(chart, at);
      guide.setAttribute("visibility", "visible");
      guide.setAttribute("x1", x(near));
      guide.setAttribute("x2", x(near));
      showTip(event, tipLines(chart, near, several));
    },
    onpointerleave: () => {
      guide.setAttribute("visibility", "hidden");
      hideTip();
    },
  }, parts);
  return svg;
}

function nearestStep(chart, at) {
  let best = null;
  for (const line of chart.lines) for (const [step] of line.points) if (best === null || Math.abs(step - at) < Math.abs(best - at)) best = step;
  return best;
}

function tipLines(chart, step, several) {
  const rows = [h("b", {}, `step ${step}`)];
  for (const line of chart.lines) {
    const point = line.points.find(([at]) => at === step);
    if (point) rows.push(h("div", {}, several ? [runMark(line.run), " "] : null, `${line.label} `, h("b", {}, number(point[1], 3))));
  }
  return rows;
}

function shortNumber(amount) {
  if (amount !== 0 && (Math.abs(amount) >= 1e5 || Math.abs(amount) < 1e-3)) return amount.toExponential(0);
  return String(Number(amount.toFixed(4)));
}

function chartInWords(chart) {
  const told = chart.lines.slice(0, 6).filter((line) => line.points.length).map((line) => {
    const [start, end] = [line.points[0], line.points[line.points.length - 1]];
    return `${index.runs.length > 1 ? `${seenText(index.runs[line.run].name)}, ` : ""}${line.label}: ${number(start[1], 3)} at step ${start[0]}, ${number(end[1], 3)} at step ${end[0]}`;
  });
  return `${chart.title}, ${chart.unit}. ${told.join("; ")}`;
}

function chartLegend(chart, several) {
  if (!several && chart.labels.length < 2) return null;
  return h("div", { class: "legend" }, chart.labels.map((label, place) => {
    const dash = several ? DASHES[place % DASHES.length] : place % 2 ? "6 3" : "";
    const mark = chart.stacked && !several
      ? s("rect", { x: 1, y: 1, width: 20, height: 8, class: `area r${place % 8}` })
      : s("path", { d: "M0 5H22", class: several ? "curve plainline" : `curve r${place % 7}`, "stroke-dasharray": dash || null });
    if (several && chart.labels.length < 2) return null;
    return h("span", { class: "key" }, s("svg", { width: 22, height: 10, "aria-hidden": "true" }, mark), label);
  }));
}

function values_table(chart) {
  const details = h("details", { class: "values", ontoggle: () => {
    if (!details.open || details.querySelector("table")) return;
    const steps = [...new Set(chart.lines.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
    const maps = chart.lines.map((line) => new Map(line.points));
    details.append(h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Values of ${chart.title}` }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "step"), chart.lines.map((line) =>
      h("th", { scope: "col" }, index.runs.length > 1 ? [runMark(line.run), " "] : null, line.label)))),
    h("tbody", {}, steps.map((step) => h("tr", {}, h("th", { scope: "row" }, step), maps.map((map) => h("td", { class: "num" }, map.has(step) ? number(map.get(step), 4) : ""))))))));
  } }, h("summary", {}, "values"));
  return details;
}

function showTip(event, nodes) {
  const tip = document.getElementById("tip");
  clear(tip, nodes);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(innerWidth - width - 8, event.clientX + 14))}px`;
  tip.style.top = `${Math.max(4, Math.min(innerHeight - height - 8, event.clientY + 14))}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}

/** Where the policy looks and where the evidence lies, by position in the video (across) and step (down). */
function heatNode(heat) {
  const run = index.runs[heat.run];
  const kinds = [["looks", "where it looks"], ["evidence", "where the evidence lies"]].filter(([kind]) => heat.rows.some((row) => row[kind]));
  const most = Math.max(0.01, ...heat.rows.flatMap((row) => kinds.flatMap(([kind]) => row[kind] || [])));
  return h("figure", { class: "chart heat" },
    h("figcaption", {}, index.runs.length > 1 ? [runMark(heat.run), " "] : null, h("b", {}, "Where in the video"), h("span", { class: "muted" }, " ", index.runs.length > 1 ? [said("span", {}, run.name), ", "] : null, `${heat.phase}, share of frames`)),
    h("div", { class: "maps" }, kinds.map(([kind, name]) => heatMap(heat, kind, name, most))),
    h("div", { class: "legend" }, h("span", { class: "key" }, "0%"), h("span", { class: "ramp", "aria-hidden": "true" }), h("span", { class: "key" }, `${percent(most)} of the step’s frames in one part`)));
}

function heatMap(heat, kind, name, most) {
  const holder = h("div", { class: "heat-map" });
  const paint = () => clear(holder, heatSvg({ heat, kind, name, most, width: Math.min(560, holder.clientWidth || 400) }));
  new ResizeObserver(paint).observe(holder);
  return holder;
}

function heatSvg({ heat, kind, name, most, width }) {
  const bins = heat.rows.find((row) => row[kind])[kind].length;
  const rowHeight = Math.max(5, Math.min(18, 240 / heat.rows.length));
  const left = 46;
  const top = 18;
  const cell = (width - left - 1) / bins;
  const height = top + rowHeight * heat.rows.length + 20;
  const parts = [s("text", { x: left, y: 12, class: "lane" }, name)];
  const every = Math.max(1, Math.ceil(heat.rows.length / 8));
  heat.rows.forEach((row, k) => {
    const y = top + k * rowHeight;
    const label = row.steps[0] === row.steps[1] ? `${row.steps[0]}` : `${row.steps[0]}–${row.steps[1]}`;
    if (k % every === 0) parts.push(s("text", { x: left - 5, y: y + rowHeight / 2 + 4, class: "tick", "text-anchor": "end" }, label));
    parts.push(s("rect", { x: left, y, width: bins * cell, height: rowHeight, class: "track" }));
    (row[kind] || []).forEach((amount, bin) => {
      if (!amount) return;
      parts.push(s("rect", { x: left + bin * cell, y, width: cell + 0.4, height: rowHeight, class: "hot", "fill-opacity": (amount / most).toFixed(3) },
        s("title", {}, `step ${label}, ${percent(bin / bins)} to ${percent((bin + 1) / bins)} of the video: ${percent(amount, 1)}`)));
    });
  });
  for (const part of [0, 0.5, 1]) parts.push(s("text", { x: left + part * bins * cell, y: height - 6, class: "tick", "text-anchor": part === 0 ? "start" : part === 1 ? "end" : "middle" }, part === 0 ? "start" : part === 1 ? "end of the video" : "middle"));
  const peak = (row) => row[kind] ? row[kind].indexOf(Math.max(...row[kind])) : -1;
  const final = heat.rows[heat.rows.length - 1];
  const words = peak(final) < 0 ? "" : `; in the last row the most frames lie ${percent(peak(final) / bins)} into the video`;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Heat map: ${name}, by step${words}` }, parts);
}
