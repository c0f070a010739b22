// The page's data: blocks of JSON, read when they are first needed.

const cache = new Map();
const arriving = new Map();
const folder = document.body.dataset.loads;

/** Read a block: from the page itself, or, where the report is a folder, from the file beside it. */
function read(name) {
  if (cache.has(name)) return Promise.resolve(cache.get(name));
  const node = document.getElementById(`block-${name}`);
  if (node) {
    const data = JSON.parse(node.textContent);
    cache.set(name, data);
    return Promise.resolve(data);
  }
  if (!folder) return Promise.reject(new Error(`the page holds no block ${name}`));
  if (!arriving.has(name)) arriving.set(name, load(name));
  return arriving.get(name);
}

const trusted = folder && window.trustedTypes
  ? window.trustedTypes.createPolicy("videomtr", {
      createScriptURL: (url) => {
        if (!/^data\/[0-9a-f]{16}\/[a-z]+\d+\.js$/.test(url)) throw new Error(`not a block of this report: ${url}`);
        return url;
      },
    })
  : { createScriptURL: (url) => url };

function load(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = () => (cache.has(name) ? resolve(cache.get(name)) : reject(new Error(`${name} is empty`)));
    script.onerror = () => reject(new Error(`${folder}${name}.js could not be read; keep it beside the page`));
    script.src = trusted.createScriptURL(`${folder}${name}.js`);
    document.head.append(script);
  });
}

if (folder) window.videomtrBlock = (name, data) => cache.set(name, data);

const index = JSON.parse(document.getElementById("block-index").textContent);

/** The episodes as objects, in the order of the page. */
const cards = (() => {
  const names = Object.keys(index.cards);
  const count = names.length ? index.cards[names[0]].length : 0;
  return Array.from({ length: count }, (_, place) => {
    const card = { place };
    for (const name of names) card[name] = index.cards[name][place];
    return card;
  });
})();
const byId = new Map(cards.map((card) => [card.id, card]));

/** What is told of an episode turn by turn. */
async function detailOf(card) {
  const block = await read(`episodes${Math.floor(card.place / index.chunk)}`);
  return block[card.place % index.chunk];
}

const NO_FILM = { times: null, duration: null, frames: {}, problem: "no video is named" };

/** Times and thumbnails of an episode's video. */
async function filmOf(card) {
  if (card.film === null) return NO_FILM;
  let block = index.film_blocks.length - 1;
  while (block > 0 && index.film_blocks[block] > card.film) block -= 1;
  return (await read(`films${block}`))[card.film - index.film_blocks[block]] || NO_FILM;
}

/** Answer with the film where its block has been read, else null. */
function filmNow(card) {
  if (card.film === null) return NO_FILM;
  let block = index.film_blocks.length - 1;
  while (block > 0 && index.film_blocks[block] > card.film) block -= 1;
  const films = cache.get(`films${block}`);
  return films ? films[card.film - index.film_blocks[block]] || NO_FILM : null;
}

/** Make the picture of a pool frame: its thumbnail, or a grey frame with its time. */
function picture(film, frame, { label = true, lazy = false } = {}) {
  const data = film && film.frames[frame];
  const time = film && film.times ? clock(film.times[frame], film.times[film.times.length - 1] < 600 ? 1 : 0) : null;
  const name = time ? `Frame ${frame} at ${time}` : `Frame ${frame}`;
  const image = data
    ? h("img", { src: `data:image/webp;base64,${data}`, alt: name, decoding: "async", loading: lazy && "lazy" })
    : h("span", { class: "grey", role: "img", "aria-label": `${name}, no picture` }, time || `#${frame}`);
  if (!label) return image;
  return h("figure", { class: "frame", "data-frame": frame }, image, h("figcaption", {}, h("b", {}, frame), time && ` ${time}`));
}
