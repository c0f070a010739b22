// Building blocks: elements, numbers, and text of strangers. Nothing here or elsewhere parses text as HTML.

/** Make an element. `props`: attributes, `on*` listeners, `class`; children are nodes or texts. */
function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Make an SVG element. */
function s(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

// Characters that change what is read without being seen: controls, zero-width ones, overrides of direction.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

/** Split a stranger's text into nodes in which invisible characters show as their code. */
function seen(text) {
  if (!INVISIBLE.test(text)) return [text];
  return text.split(new RegExp(`(${INVISIBLE.source})`)).filter((part) => part !== "").map((part) => {
    if (part.length > 1 || !INVISIBLE.test(part)) return part;
    const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return h("span", { class: "unseen", title: "an invisible character" }, code);
  });
}

/** The same as one plain text, for attributes. */
function seenText(text) {
  return seen(String(text)).map((part) => (typeof part === "string" ? part : part.textContent)).join("");
}

/** A stranger's text in a box of its own direction. */
function said(tag, props, text) {
  return h(tag, { dir: "auto", ...props, class: `said ${props.class || ""}`.trim() }, seen(String(text)));
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
}

function signed(value, digits = 2) {
  if (typeof value !== "number") return number(value);
  return (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), digits);
}

function percent(value, digits = 0) {
  return typeof value === "number" ? `${(100 * value).toFixed(digits)}%` : "–";
}

/** Seconds as a clock where the video is long: 75.5 -> 1:15.5. */
function clock(seconds, digits = 1) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  const rest = (seconds % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** Round tick positions that cover [low, high]. */
function ticks(low, high, most, whole = false) {
  const span = high - low || 1;
  if (!Number.isFinite(span)) return [];
  let step = 10 ** Math.floor(Math.log10(span / most));
  for (const factor of [1, 2, 5, 10]) {
    if (span / (step * factor) <= most) {
      step *= factor;
      break;
    }
  }
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  const first = Math.ceil(low / step);
  for (let k = 0; k <= most + 1 && (first + k) * step <= high + step * 1e-6; k += 1) found.push(Number(((first + k) * step).toPrecision(12)));
  return found;
}

/** Round ticks of time: seconds, minutes, hours. */
function timeTicks(duration, most) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000];
  const step = steps.find((size) => duration / size <= most);
  if (!step) return ticks(0, duration, most);
  const found = [];
  for (let at = 0; at <= duration + 1e-9; at += step) found.push(Number(at.toFixed(3)));
  return found;
}

function clear(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
