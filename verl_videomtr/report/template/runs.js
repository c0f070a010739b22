// The Run view (curves, collapse monitor, heat maps) and the Table view (accuracy with intervals, flips).

function drawRun(main) {
  const areas = [...new Set(index.charts.map((chart) => chart.area))];
  const training = areas.filter((area) => area !== "Collapse monitor");
  const order = [...training.slice(0, 2), ...areas.filter((area) => area === "Collapse monitor"), ...training.slice(2)];
  clear(main, h("div", { class: "run" },
    runCards(),
    !index.charts.length && !index.heat.length ? h("p", { class: "empty" }, "No curves: these lines are of one moment. The Table view has their numbers.") : null,
    order.map((area) => h("section", {}, h("h2", {}, area),
      h("div", { class: "charts" }, index.charts.filter((chart) => chart.area === area).map(chartNode)),
      area === "Looking" && index.heat.length ? heats() : null)),
    !areas.includes("Looking") && index.heat.length ? heats() : null));
}

function heats() {
  return h("div", { class: "charts wide" }, index.heat.map(heatNode));
}

function runCards() {
  return h("div", { class: "run-cards" }, index.runs.map((run, k) => h("section", { class: "run-card" },
    h("h2", {}, index.runs.length > 1 ? [runMark(k), " "] : null, said("span", {}, run.name)),
    h("p", { class: "muted small" }, said("span", {}, run.path)),
    h("p", {}, run.episodes ? `${plural(run.episodes, "episode")} read` : "curves alone", run.lost ? `, ${run.lost} lost` : "", run.unread ? `, ${plural(run.unread, "line")} unreadable` : "",
      run.left_out ? `, ${plural(run.left_out, "file")} of other lines left out` : "",
      run.metrics ? "" : run.episodes ? "; curves come from the episodes themselves" : ""),
    run.settings.length ? h("details", {}, h("summary", {}, "Settings"), h("dl", { class: "settings" }, run.settings.map(([name, text]) => [h("dt", {}, seenText(name)), said("dd", {}, text)]))) : null)));
}

function drawTable(main) {
  const sets = index.sets;
  clear(main, h("div", { class: "tables" },
    sets.length ? null : h("p", { class: "empty" }, "No episodes, so no table."),
    index.flips.length ? h("section", {}, h("h2", {}, "What flipped"), index.flips.map(flipNode)) : null,
    sets.length ? h("section", {}, h("h2", {}, "Accuracy and how it came about"), h("p", { class: "muted small" }, "Intervals are over videos (bootstrap), since questions of one video stand or fall together. A lost episode counts as wrong."), tablePicker(sets)) : null));
}

function tablePicker(sets) {
  const holder = h("div", {});
  let shown = sets.map((_, k) => k).filter((k) => sets[k].phase !== "training");
  if (!shown.length) shown = sets.map((_, k) => k);
  const paint = () => clear(holder, [...shown].sort((a, b) => a - b).map((k) => setTable(sets[k])));
  const box = sets.length > 2 ? h("fieldset", { class: "sets" }, h("legend", {}, "Shown"), sets.map((set, k) => h("label", {}, h("input", {
    type: "checkbox", checked: shown.includes(k),
    onchange: (event) => {
      shown = event.target.checked ? [...shown, k] : shown.filter((other) => other !== k);
      paint();
    },
  }), " ", said("span", {}, set.label)))) : null;
  if (shown.length > 4) {
    shown = [shown[0], ...shown.slice(-3)];
    box?.querySelectorAll("input").forEach((input, k) => { input.checked = shown.includes(k); });
  }
  paint();
  return [box, holder];
}

function setTable(set) {
  const has = (name) => set.rows.some((row) => row[name] !== null && row[name] !== undefined);
  const columns = [["samples", "samples", 0], ["episodes", "episodes", 0], ["lost", "lost", 0], ["reward", "reward", 2], ["turns", "turns", 2], ["frames", "frames", 1], ["iou", "best IoU", 3]].filter(([name]) => has(name) && (name !== "lost" || set.rows.some((row) => row.lost)));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": seenText(set.label) }, h("table", { class: "numbers" },
    h("caption", {}, index.runs.length > 1 ? [runMark(set.run), " "] : null, said("b", {}, set.label)),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "questions")), h("th", { scope: "col" }, "accuracy, 95% interval"), h("th", { scope: "col" }, h("span", { class: "axis-head" }, h("span", {}, "0"), h("span", {}, "50"), h("span", {}, "100%"))), columns.map(([, label]) => h("th", { scope: "col", class: "num" }, label)))),
    h("tbody", {}, set.rows.map((row) => h("tr", { class: row.macro ? "macro" : row.kind ? "" : "all" },
      h("th", { scope: "row" }, said("span", {}, row.name), row.kind ? h("span", { class: "muted small" }, ` ${row.kind}`) : null),
      h("td", { class: "num" }, accuracyWords(row.accuracy)),
      h("td", { class: "whisker" }, whisker(row.accuracy)),
      columns.map(([name, , digits]) => h("td", { class: "num" }, row[name] === undefined ? "" : number(row[name], digits))))))));
}

function accuracyWords(accuracy) {
  if (!accuracy) return "–";
  const [mean, low, high] = accuracy;
  return low === undefined ? percent(mean, 1) : [h("b", {}, percent(mean, 1)), h("span", { class: "muted" }, ` ${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)}`)];
}

function whisker(accuracy) {
  if (!accuracy) return null;
  const [mean, low, high] = accuracy;
  return s("svg", { viewBox: "0 0 100 14", width: 180, height: 14, preserveAspectRatio: "none", "aria-hidden": "true" },
    [0, 25, 50, 75, 100].map((x) => s("line", { x1: x, x2: x, y1: 0, y2: 14, class: "grid" })),
    low === undefined ? null : s("rect", { x: 100 * low, y: 5, width: 100 * (high - low), height: 4, class: "ci" }),
    s("rect", { x: 100 * mean - 0.7, y: 1, width: 1.4, height: 12, class: "mean" }));
}

function flipNode(flip) {
  const [first, second] = [index.sets[flip.first], index.sets[flip.second]];
  const points = (amount) => signed(Number((100 * amount).toFixed(1)), 1);
  const [mean, low, high] = flip.difference;
  const range = low === undefined ? "" : ` (95% interval ${points(low)} to ${points(high)})`;
  return h("section", { class: "flip" },
    h("h3", {}, index.runs.length > 1 ? [runMark(first.run), " "] : null, said("span", {}, first.label), " → ", index.runs.length > 1 ? [runMark(second.run), " "] : null, said("span", {}, second.label)),
    h("p", {}, `${plural(flip.samples, "sample")} in both: `, h("b", {}, `${flip.num_gained} turned right`), ", ", h("b", {}, `${flip.num_dropped} turned wrong`), `, ${flip.both_right} right in both, ${flip.both_wrong} wrong in both. `,
      h("b", {}, `${points(mean)} points`), `${range}; McNemar’s exact p ${flip.p < 0.001 ? "< 0.001" : `= ${number(flip.p, 3)}`}.`),
    flipBar(flip),
    h("div", { class: "flip-lists" }, flipList("Turned right", flip.gained, flip.num_gained, first, second), flipList("Turned wrong", flip.dropped, flip.num_dropped, first, second)));
}

function flipBar(flip) {
  const parts = [["both_right", "right in both"], ["num_gained", "turned right"], ["num_dropped", "turned wrong"], ["both_wrong", "wrong in both"]];
  let at = 0;
  return h("div", { class: "flip-bar", "aria-hidden": "true" }, s("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" }, parts.map(([name, label]) => {
    const width = (100 * flip[name]) / flip.samples;
    at += width;
    return s("rect", { x: at - width, y: 0, width, height: 10, class: `part ${name}` }, s("title", {}, `${label}: ${flip[name]}`));
  })), h("div", { class: "legend" }, parts.map(([name, label]) => h("span", { class: "key" }, h("i", { class: `swatch part ${name}` }), `${label} ${flip[name]}`))));
}

function flipList(title, samples, count, first, second) {
  if (!count) return null;
  const find = (set, sample) => cards.find((card) => card.run === set.run && card.phase === set.phase && card.step === set.step && card.sample === sample);
  const items = samples.map((sample) => [sample, find(first, sample), find(second, sample)]);
  return h("details", {}, h("summary", {}, `${title} (${count})`), h("ul", { class: "flip-list" }, items.map(([sample, left, right]) => h("li", {}, left && right
    ? h("a", { href: fragment({ view: "episode", e: left.id, with: right.id }) }, said("span", {}, apart(left.question).question.replace(/\s+/g, " ").slice(0, 140)))
    : h("span", {}, said("span", {}, sample), h("span", { class: "muted" }, " (not shown on this page)"))))),
  count > samples.length ? h("p", { class: "muted small" }, `and ${count - samples.length} more`) : null);
}
