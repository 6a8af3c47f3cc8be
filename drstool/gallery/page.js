// The gallery: a grid of all images, a confusion matrix, and a viewer. Names and ids are set as text, never as markup.
"use strict";

(() => {
  const index = window.galleryIndex, {images, classes} = index;
  const scored = [...index.labels, ...index.maps.map((each) => each.name)];
  const undecided = classes.length;  // as a predicted label in the counts: ignored
  const $ = (id) => document.getElementById(id);

  // --- small things -------------------------------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const named = (text) => make("span", {class: "name"}, text);
  // What would be drawn as nothing, or turn the text around, is shown as an escape.
  const plain = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/g,
    (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"));
  const nameOf = (label) => label === undecided ? "ignored" : plain(classes[label]);
  const colorOf = (label) => `rgb(${index.colors[label].join(",")})`;
  function swatch(label) {
    const element = make("span", {class: label === undecided ? "swatch hatched" : "swatch"});
    if (label !== undecided) element.style.backgroundColor = colorOf(label);
    return element;
  }
  const score = (value, digits = 3) => value === null || Number.isNaN(value) ? "–" : value.toFixed(digits);
  const percent = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0) + " %";
  const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const option = (value, text) => make("option", {value}, text);
  const typing = (target) => target instanceof HTMLSelectElement
    || (target instanceof HTMLInputElement && target.type !== "range" && target.type !== "checkbox");

  // --- scores, as drstool/metrics/confusion.py counts them; a predicted ignore label is a miss -----------------------

  class Counts {
    constructor() { this.pairs = new Map(); }

    add(flat) {
      for (let i = 0; i < flat.length; i += 3) {
        const key = (flat[i] + 1) * (undecided + 1) + flat[i + 1];
        this.pairs.set(key, (this.pairs.get(key) || 0) + flat[i + 2]);
      }
      return this;
    }

    * [Symbol.iterator]() {
      for (const [key, pixels] of this.pairs) {
        yield [Math.floor(key / (undecided + 1)) - 1, key % (undecided + 1), pixels];
      }
    }

    scores() {
      const rows = new Map(), row = (label) => {
        if (!rows.has(label)) rows.set(label, {hits: 0, target: 0, prediction: 0});
        return rows.get(label);
      };
      let pixels = 0, ignored = 0, known = false;
      for (const [target, prediction, number] of this) {
        pixels += number;
        if (target >= 0) { row(target).target += number; known = true; }
        if (prediction === undecided) ignored += number;
        else row(prediction).prediction += number;
        if (target === prediction) row(target).hits += number;
      }
      const iou = new Map();
      for (const label of [...rows.keys()].sort((a, b) => a - b)) {
        const {hits, target, prediction} = rows.get(label);
        iou.set(label, known ? hits / (target + prediction - hits) : NaN);
      }
      const values = [...iou.values()];
      return {iou, mean: known ? values.reduce((sum, each) => sum + each, 0) / values.length : NaN,
              ignored: pixels ? ignored / pixels : 0, pixels};
    }
  }

  const scoreCache = scored.map(() => new Map());
  function scoresOf(image, layer) {
    if (layer >= scored.length || !image.counts[layer]) return null;
    const cache = scoreCache[layer];
    if (!cache.has(image)) cache.set(image, new Counts().add(image.counts[layer]).scores());
    return cache.get(image);
  }

  // --- which images, in which order ------------------------------------------------------------------------------------

  const state = {layer: 0, frame: 0, confusion: null, shown: [], current: 0, width: 200};
  // What the thumbnails show, and an image's first layers.
  const frames = [
    {kind: "image", name: "image"}, ...(index.targets ? [{kind: "target", name: "ground truth"}] : []),
    ...index.labels.map((name, i) => ({kind: "labels", i, name: plain(name)})),
    ...index.maps.map(({name}, i) => ({kind: "rule", i, name: `labels from ${plain(name)}`}))];
  // The thumbnails always have a frame for ground truth.
  const frameAt = (frame) => frame && !index.targets ? frame + 1 : frame;

  function confusedPixels(image) {
    const flat = image.counts[state.layer] || [], [target, prediction] = state.confusion;
    for (let i = 0; i < flat.length; i += 3) if (flat[i] === target && flat[i + 1] === prediction) return flat[i + 2];
    return 0;
  }

  function valueOf(image, chosen) {
    const scores = scoresOf(image, state.layer);
    return scores === null ? NaN : chosen === "" ? scores.mean : scores.iou.get(+chosen) ?? NaN;
  }

  function has(image, label) {
    return (image.tags || []).includes(label) || (scoresOf(image, state.layer)?.iou.has(label) ?? false);
  }

  function filter() {
    const chosen = $("class").value, low = +$("low").value, high = $("high").value === "" ? 1 : +$("high").value;
    const least = +$("ignored").value / 100, text = $("text").value.toLowerCase();
    const bounded = low > 0 || high < 1;
    const before = state.shown[state.current];
    state.shown = images.filter((image) => {
      if (text && !image.id.toLowerCase().includes(text)) return false;
      if (chosen !== "" && !has(image, +chosen)) return false;
      if (state.confusion && !confusedPixels(image)) return false;
      if (least > 0 && !((scoresOf(image, state.layer)?.ignored ?? -1) >= least)) return false;
      const value = bounded ? valueOf(image, chosen) : 0;
      return !bounded || (value >= low && value <= high);
    });
    sort($("sort").value, chosen);
    state.current = Math.max(0, state.shown.indexOf(before));
    $("confusion").hidden = state.confusion === null;
    if (state.confusion) {
      const [target, prediction] = state.confusion;
      $("confusion").textContent = `${nameOf(target)} predicted as ${nameOf(prediction)} ✕`;
    }
    summarize();
    layout();
    if (!$("matrix").hidden) drawMatrix();
  }

  function sort(by, chosen) {
    const keys = {
      worst: (image) => valueOf(image, chosen), best: (image) => -valueOf(image, chosen),
      ignored: (image) => -(scoresOf(image, state.layer)?.ignored ?? NaN),
      pixels: (image) => -confusedPixels(image)};
    if (by === "id") {
      const order = new Intl.Collator("en", {numeric: true}).compare;
      state.shown.sort((a, b) => order(a.id, b.id));
    } else if (by === "pixels" ? state.confusion : by in keys) {
      const key = new Map(state.shown.map((image) => [image, keys[by](image)]));
      // Images without a value come last.
      const last = (value) => Number.isNaN(value) ? Infinity : value;
      state.shown.sort((a, b) => {
        const x = last(key.get(a)), y = last(key.get(b));
        return x < y ? -1 : x > y ? 1 : a.file - b.file;
      });
    }
  }

  function summarize() {
    const total = new Counts(), found = state.shown.length;
    for (const image of state.shown) total.add(image.counts[state.layer] || []);
    const scores = total.scores(), parts = [
      found === images.length ? counted(found, "image") : `${found.toLocaleString("en")} of ${counted(images.length, "image")}`];
    if (!Number.isNaN(scores.mean) && scores.pixels) parts.push(`mean IoU ${score(scores.mean)}`);
    if (scores.ignored > 0) parts.push(`${percent(scores.ignored)} ignored`);
    $("summary").textContent = parts.join(" · ");
    state.total = total;
  }

  // --- the grid: only what can be seen is there --------------------------------------------------------------------------

  const tiles = new Map(), scroll = $("scroll"), grid = $("grid"), GAP = 10;
  let columns = 1, tileWidth = 200, tileHeight = 190, queued = false;

  function layout() {
    const room = grid.clientWidth;
    columns = Math.max(1, Math.floor((room + GAP) / (state.width + GAP)));
    tileWidth = Math.floor((room - GAP * (columns - 1)) / columns);
    tileHeight = Math.round(tileWidth * 0.75) + 38;
    grid.style.height = Math.max(0, Math.ceil(state.shown.length / columns) * (tileHeight + GAP) - GAP) + "px";
    $("empty").hidden = state.shown.length > 0;
    const focused = grid.contains(document.activeElement);
    for (const tile of tiles.values()) tile.remove();
    tiles.clear();
    render();
    if (focused) focusOn(state.current);
  }

  function render() {
    queued = false;
    const step = tileHeight + GAP, first = Math.max(0, Math.floor((scroll.scrollTop - 12) / step) - 1);
    const last = Math.ceil((scroll.scrollTop + scroll.clientHeight) / step) + 1;
    const from = first * columns, to = Math.min(state.shown.length, last * columns);
    for (const [place, tile] of tiles) {
      // The one with the focus stays, so that the keys go on from there.
      if ((place < from || place >= to) && tile !== document.activeElement) { tile.remove(); tiles.delete(place); }
    }
    for (let place = from; place < to; place++) {
      if (!tiles.has(place)) {
        const tile = makeTile(state.shown[place], place);
        tiles.set(place, tile);
        grid.append(tile);
      }
    }
  }

  function makeTile(image, place) {
    const scores = scoresOf(image, state.layer), value = valueOf(image, $("class").value);
    const picture = make("div", {role: "img", "aria-label": frames[state.frame].name});
    const [height, width] = image.size, box = [tileWidth, tileHeight - 38];
    const scale = Math.min(box[0] / width, box[1] / height), count = 2 + scored.length, w = Math.round(width * scale);
    Object.assign(picture.style, {
      width: w + "px", height: Math.round(height * scale) + "px",
      backgroundImage: `url("thumbnails/${fileName(image)}.jpg")`, backgroundSize: `${count * 100}% 100%`,
      backgroundPosition: `${100 * frameAt(state.frame) / (count - 1)}% 0`});
    const bar = make("i");
    bar.style.width = Number.isNaN(value) ? "0" : 100 * value + "%";
    const shownScore = !Number.isNaN(value) ? score(value) : scores && scores.ignored > 0 ? percent(scores.ignored) : "";
    const tile = make("button", {
      class: "tile", title: plain(image.id), tabindex: place === state.current ? 0 : -1, "data-place": place,
      onclick: () => { state.current = place; openViewer(); },
      onfocus: () => focusOn(place, false)},
    make("div", {class: "photo"}, picture),
    make("div", {class: "text"}, named(plain(image.id)), make("span", {}, shownScore)),
    make("div", {class: "bar"}, bar));
    const row = Math.floor(place / columns), column = place % columns;
    Object.assign(tile.style, {
      width: tileWidth + "px", height: tileHeight + "px",
      transform: `translate(${column * (tileWidth + GAP)}px, ${row * (tileHeight + GAP)}px)`});
    return tile;
  }

  const fileName = (image) => String(image.file).padStart(6, "0");

  function focusOn(place, move = true) {
    tiles.get(state.current)?.setAttribute("tabindex", -1);
    state.current = Math.max(0, Math.min(state.shown.length - 1, place));
    if (move) {
      const step = tileHeight + GAP, top = Math.floor(state.current / columns) * step + 12;
      const limit = scroll.scrollTop + scroll.clientHeight;
      if (top - 12 < scroll.scrollTop) scroll.scrollTop = top - 12;
      else if (top + step > limit) scroll.scrollTop = top + step - scroll.clientHeight;
      render();
    }
    const tile = tiles.get(state.current);
    tile?.setAttribute("tabindex", 0);
    if (move) tile?.focus({preventScroll: true});
  }

  function gridKey(event) {
    const page = Math.max(1, Math.floor(scroll.clientHeight / (tileHeight + GAP))) * columns;
    const moves = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page,
                   Home: -Infinity, End: Infinity};
    if (event.key in moves) focusOn(state.current + moves[event.key]);
    else if (event.key >= "1" && event.key <= "9" && +event.key <= frames.length) setFrame(+event.key - 1);
    else if (event.key === "+" || event.key === "-") {
      const widths = [120, 160, 200, 280, 400], at = widths.indexOf(state.width) + (event.key === "+" ? 1 : -1);
      state.width = widths[Math.max(0, Math.min(widths.length - 1, at))];
      layout();
      focusOn(state.current);
    } else if (event.key === "/") $("text").focus();
    else if (event.key === "c") toggleMatrix();
    else return false;
    return true;
  }

  // Scores follow what the thumbnails show, if it has some.
  function setFrame(frame) {
    const {kind, i} = frames[frame];
    $("frame").value = state.frame = frame;
    if (kind === "labels" || kind === "rule") $("scored").value = state.layer = kind === "rule" ? index.labels.length + i : i;
    filter();
  }

  // --- the confusion matrix ----------------------------------------------------------------------------------------------

  const MOST = 40;

  function toggleMatrix() {
    $("matrix").hidden = !$("matrix").hidden;
    $("matrix-button").setAttribute("aria-pressed", !$("matrix").hidden);
    if (!$("matrix").hidden) drawMatrix();
    layout();
  }

  function drawMatrix() {
    // All images, so that a click on a cell is no dead end.
    const total = new Counts(), sums = new Map(), cells = new Map();
    for (const image of images) total.add(image.counts[state.layer] || []);
    for (const [target, prediction, pixels] of total) {
      if (target < 0) continue;
      sums.set(target, (sums.get(target) || 0) + pixels);
      if (prediction < undecided) sums.set(prediction, sums.get(prediction) || 0);
      cells.set(`${target} ${prediction}`, pixels);
    }
    const labels = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a)).slice(0, MOST).sort((a, b) => a - b);
    const columnsOf = [...labels, undecided].filter((p) => p < undecided || labels.some((t) => cells.has(`${t} ${p}`)));
    const head = make("tr", {}, make("th"), ...columnsOf.map((p) => make("th", {scope: "col"}, named(nameOf(p)))));
    const body = labels.map((target) => make("tr", {}, make("th", {scope: "row"}, named(nameOf(target))),
      ...columnsOf.map((prediction) => make("td", {}, cell(target, prediction, cells, sums)))));
    $("matrix").replaceChildren(
      make("h2", {}, `Confusions of ${plain(scored[state.layer])}`),
      make("p", {class: "faint"}, "Rows are ground truth, columns predictions; percent of a row's pixels, over all "
        + "images. A click shows the images of a cell." + (sums.size > MOST ? ` The ${MOST} largest classes.` : "")),
      make("table", {onkeydown: matrixKey}, make("thead", {}, head), make("tbody", {}, ...body)));
    const first = $("matrix").querySelector("button[aria-pressed=true]") || $("matrix").querySelector("td button:enabled");
    first?.setAttribute("tabindex", 0);
  }

  function cell(target, prediction, cells, sums) {
    const pixels = cells.get(`${target} ${prediction}`) || 0, share = pixels / (sums.get(target) || 1);
    const chosen = state.confusion?.[0] === target && state.confusion?.[1] === prediction;
    const text = pixels === 0 ? "" : share < 0.005 ? "·" : String(Math.round(100 * share));
    const words = `${nameOf(target)} predicted as ${nameOf(prediction)}: ${percent(share)}`;
    const button = make("button", {
      class: share > 0.55 ? "strong" : "", disabled: pixels === 0, "aria-pressed": chosen, title: words,
      "aria-label": words, tabindex: -1, "data-cell": `${target} ${prediction}`,
      onclick: () => chooseConfusion(chosen ? null : [target, prediction])}, text);
    button.style.setProperty("--share", pixels ? 0.08 + 0.92 * share : 0);
    return button;
  }

  function chooseConfusion(pair) {
    state.confusion = pair;
    $("sort").value = pair ? "pixels" : $("sort").value === "pixels" ? "order" : $("sort").value;
    scroll.scrollTop = 0;
    filter();
    const again = pair && $("matrix").querySelector(`[data-cell="${pair.join(" ")}"]`);
    if (again && $("matrix").contains(again)) again.focus();
  }

  function matrixKey(event) {
    const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    const rows = [...event.currentTarget.tBodies[0].rows], [down, right] = moves[event.key];
    let y = rows.findIndex((row) => row.contains(event.target)), x = event.target.closest("td").cellIndex;
    do { y += down; x += right; } while (rows[y]?.cells[x]?.querySelector?.("button:disabled"));
    const next = rows[y]?.cells[x]?.querySelector("button");
    if (next) { event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
  }

  // --- layers of one image: a script for each, read when it is needed ---------------------------------------------------

  const waiting = new Map(), loaded = new Map(), KEPT = 12;

  window.galleryLayers = (file, content) => waiting.get(file)?.(content);

  function layersOf(image) {
    if (!loaded.has(image.file)) {
      const found = new Promise((resolve, reject) => {
        waiting.set(image.file, resolve);
        document.head.append(make("script", {
          src: `layers/${fileName(image)}.js`, onerror: () => reject(new Error("its layers cannot be read")),
          onload: (event) => event.target.remove()}));
      }).then(decoded);
      loaded.set(image.file, found);
      found.catch(() => loaded.delete(image.file));
      if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(image.file);
  }

  async function decoded(content) {
    const [target, saliency, ...labels] = await Promise.all([content.target, content.saliency, ...content.labels].map(values));
    const maps = await Promise.all(content.maps.map(async (each) => each && {...each, values: await values(each.values)}));
    return {target, saliency, labels, maps, full: []};
  }

  async function values(coded) {
    if (!coded) return null;
    const packed = Uint8Array.from(atob(coded.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer();
    const found = coded.bytes === 1 ? new Uint8Array(bytes) : new Uint16Array(bytes), width = coded.shape[2];
    for (let i = 1; i < found.length; i++) if (i % width) found[i] += found[i - 1];
    return {shape: coded.shape, values: found};
  }

  // --- the viewer -----------------------------------------------------------------------------------------------------------

  const viewer = $("viewer"), canvas = $("canvas"), panel = $("panel");
  const look = {zoom: 1, x: 0.5, y: 0.5, opacity: 0.7, bare: false, errors: false, layer: null};
  const rules = index.maps.map(({cues}) => ({...cues, rules: false}));
  let picture = null, layers = null, list = [], overlay = null, drawing = false, opened = 0;

  const imageNow = () => state.shown[state.current];

  async function openViewer() {
    const image = imageNow(), turn = ++opened;
    if (!image) return;
    look.place = state.current;
    if (!viewer.open) {
      // What the thumbnail shows.
      look.layer = frames[state.frame];
      viewer.showModal();
      canvas.focus();
    }
    history.replaceState(null, "", "#" + encodeURIComponent(image.id));
    const photo = new Image();
    photo.src = `images/${fileName(image)}.jpg`;
    let found = null, problem = "";
    try {
      [found] = await Promise.all([layersOf(image), photo.decode()]);
    } catch (error) {
      problem = error.message;
    }
    if (turn !== opened) return;
    picture = problem ? null : photo;
    layers = found;
    if (problem) {
      overlay = null;
      panel.replaceChildren(heading(image));
      $("caption").textContent = `${plain(image.id)}: ${problem}`;
      draw();
      return;
    }
    list = listed(image);
    settle();
    buildPanel();
    choose(look.layer);
    for (const step of [1, -1]) {
      const beside = state.shown[state.current + step];
      if (beside) { layersOf(beside).catch(() => {}); new Image().src = `images/${fileName(beside)}.jpg`; }
    }
  }

  // All layers of an image; what it lacks is said, so that the numbers of the keys stay the same.
  function listed(image) {
    const lacks = {target: () => !layers.target, labels: (i) => !layers.labels[i], rule: (i) => !layers.maps[i]};
    const found = frames.map((layer) => ({...layer, missing: lacks[layer.kind]?.(layer.i)}));
    layers.maps.forEach((map, i) => map?.labels.forEach((label, channel) => {
      const from = index.maps.length > 1 ? ` in ${plain(index.maps[i].name)}` : "";
      found.push({kind: "heat", i, label, channel, name: nameOf(label) + from});
    }));
    return found;
  }

  // The chosen layer in this image: the same, else the heat of the same maps, else the image.
  function settle() {
    const {kind, i, label} = look.layer;
    const same = list.find((each) => each.kind === kind && each.i === i && each.label === label);
    const near = list.find((each) => each.kind === "heat" && kind === "heat" && each.i === i);
    look.now = same || near || list[0];
  }

  function choose(layer) {
    look.layer = layer;
    settle();
    for (const button of panel.querySelectorAll(".layers button")) {
      button.setAttribute("aria-pressed", list[button.dataset.at] === look.now);
    }
    refresh();
  }

  // Draws the chosen layer anew, and tells its scores.
  function refresh() {
    const {kind, i, channel} = look.now, size = imageNow().size;
    let labels = null;
    overlay = null;
    if (kind === "target") labels = layers.target?.values;
    if (kind === "labels") labels = layers.labels[i]?.values;
    if (kind === "rule") labels = ruled(i);
    if (labels) overlay = labelPicture(labels, size);
    if (kind === "heat") overlay = heatPicture(fullMaps(i), channel, size);
    const nothing = kind === "heat" && overlay.empty ? ": no value above 0" : "";
    const errors = look.errors && (kind === "labels" || kind === "rule") && layers.target ? ", errors only" : "";
    $("caption").textContent = look.now.missing ? `${look.now.name}: this image has none`
      : `${kind === "heat" ? "heat of " : ""}${look.now.name}${nothing}${errors}`;
    showScores(labels);
    draw();
  }

  function fullMaps(i) {
    const {values: bytes, shape} = layers.maps[i].values;
    layers.full[i] ??= Cues.resize(bytes, shape, imageNow().size);
    return layers.full[i];
  }

  function ruled(i) {
    if (!layers.maps[i]) return null;
    const [height, width] = imageNow().size;
    return Cues.labelsOf(fullMaps(i), layers.maps[i].labels, height * width, rules[i], layers.saliency?.values ?? null,
      index.ignore, rules[i].rules);
  }

  function blank([height, width]) {
    const surface = make("canvas", {width, height}), context = surface.getContext("2d");
    return {surface, context, pixels: context.createImageData(width, height)};
  }

  function labelPicture(labels, size) {
    const {surface, context, pixels} = blank(size), width = size[1], data = pixels.data, {ignore, errors} = index;
    const target = look.errors && look.now.kind !== "target" ? layers.target?.values : null;
    for (let i = 0; i < labels.length; i++) {
      const label = labels[i];
      // Where only errors are wanted, nothing is drawn where the label is right, or ground truth unknown.
      if (target && (target[i] === label || target[i] === ignore)) continue;
      if (label === ignore) {
        const stripe = Math.floor((i % width + Math.floor(i / width)) / 3) % 2 ? 235 : 60;
        data.set([stripe, stripe, stripe, 255], 4 * i);
      } else if (label || target) {
        const [r, g, b] = !target ? index.colors[label]
          : errors[label === 0 ? "missed" : target[i] === 0 ? "false" : "wrong class"];
        data[4 * i] = r; data[4 * i + 1] = g; data[4 * i + 2] = b; data[4 * i + 3] = 255;
      }
    }
    context.putImageData(pixels, 0, 0);
    return surface;
  }

  function heatPicture(maps, channel, size) {
    const {surface, context, pixels} = blank(size), count = size[0] * size[1], data = pixels.data;
    let most = 0;
    for (let i = 0; i < count; i++) {
      const value = maps[channel * count + i], [r, g, b] = index.heat[Math.round(value * 255)];
      most = Math.max(most, value);
      data[4 * i] = r; data[4 * i + 1] = g; data[4 * i + 2] = b; data[4 * i + 3] = 255 * value;
    }
    context.putImageData(pixels, 0, 0);
    surface.empty = most === 0;
    return surface;
  }

  function draw() {
    if (!drawing) requestAnimationFrame(paint);
    drawing = true;
  }

  function place() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
    const [h, w] = imageNow().size, scale = Math.min(width / w, height / h) * 0.97 * look.zoom;
    return {width, height, ratio, scale, left: width / 2 - look.x * w * scale, top: height / 2 - look.y * h * scale};
  }

  function paint() {
    drawing = false;
    if (!viewer.open || !imageNow()) return;
    const {width, height, scale, left, top} = place(), context = canvas.getContext("2d"), [h, w] = imageNow().size;
    if (canvas.width !== Math.round(width) || canvas.height !== Math.round(height)) {
      canvas.width = Math.round(width);
      canvas.height = Math.round(height);
    }
    context.clearRect(0, 0, width, height);
    if (!picture) return;
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = scale < 4;
    context.drawImage(picture, left, top, w * scale, h * scale);
    if (overlay && !look.bare) {
      context.globalAlpha = look.opacity;
      context.imageSmoothingEnabled = look.now.kind === "heat" || scale < 1;
      context.drawImage(overlay, left, top, w * scale, h * scale);
      context.globalAlpha = 1;
    }
  }

  function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const {scale, left, top, ratio, width, height} = place(), [h, w] = imageNow().size;
    const zoom = Math.max(0.25, Math.min(64, look.zoom * factor)), grown = scale * zoom / look.zoom;
    // The point under the pointer stays where it is.
    const px = (x * ratio - left) / scale, py = (y * ratio - top) / scale;
    look.x = (width / 2 - x * ratio + px * grown) / grown / w;
    look.y = (height / 2 - y * ratio + py * grown) / grown / h;
    look.zoom = zoom;
    draw();
  }

  function panBy(x, y) {
    const {scale, ratio} = place(), [h, w] = imageNow().size;
    look.x = Math.max(0, Math.min(1, look.x - x * ratio / scale / w));
    look.y = Math.max(0, Math.min(1, look.y - y * ratio / scale / h));
    draw();
  }

  function step(by) {
    const to = Math.max(0, Math.min(state.shown.length - 1, state.current + by));
    if (to === state.current) return;
    state.current = to;
    openViewer();
  }

  function viewerKey(event) {
    const {key} = event, side = event.shiftKey;
    const pans = {ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80]};
    if (side && key in pans) panBy(...pans[key]);
    else if (key === "ArrowLeft" || key === "PageUp") step(-1);
    else if (key === "ArrowRight" || key === "PageDown") step(1);
    else if (key === "Home") step(-Infinity);
    else if (key === "End") step(Infinity);
    else if (!layers) return false;
    else if (key >= "1" && key <= "9") { if (list[key - 1]) choose(list[key - 1]); }
    else if (key === "ArrowUp" || key === "ArrowDown") {
      choose(list[(list.indexOf(look.now) + (key === "ArrowUp" ? list.length - 1 : 1)) % list.length]);
    } else if (key === "+" || key === "=") zoomBy(1.25);
    else if (key === "-") zoomBy(0.8);
    else if (key === "0") { Object.assign(look, {zoom: 1, x: 0.5, y: 0.5}); draw(); }
    else if (key === "[" || key === "]") setOpacity(look.opacity + (key === "]" ? 0.1 : -0.1));
    else if (key === "," || key === ".") moveAlpha(key === "." ? 5 : -5);
    else if (key === "e") { look.errors = !look.errors; buildPanel(); choose(look.layer); }
    else if (key === " ") { look.bare = true; draw(); }
    else return false;
    return true;
  }

  function setOpacity(value) {
    look.opacity = Math.max(0, Math.min(1, value));
    const slider = $("opacity");
    if (slider) { slider.value = look.opacity; slider.nextSibling.value = percent(look.opacity); }
    draw();
  }

  // --- the viewer's panel -------------------------------------------------------------------------------------------------

  function heading(image) {
    const [height, width] = image.full, place = `${(state.current + 1).toLocaleString("en")} of ${counted(state.shown.length, "image")}`;
    return make("section", {},
      make("div", {class: "row"}, make("span", {class: "space faint"}, place),
        make("button", {onclick: () => viewer.close()}, "Close ", make("kbd", {}, "Esc"))),
      make("h2", {}, named(plain(image.id))),
      make("div", {class: "faint"}, `${width} × ${height}`, image.tags ? " · " + (image.tags.map(nameOf).join(", ") || "no tag") : ""));
  }

  function buildPanel() {
    const image = imageNow(), focused = document.activeElement?.id;
    const buttons = list.map((layer, at) => {
      const button = make("button", {"data-at": at, "aria-pressed": layer === look.now, onclick: () => choose(layer)},
        make("kbd", {}, at < 9 ? String(at + 1) : " "));
      if (layer.kind === "heat") button.append(swatch(layer.label));
      button.append(named(layer.kind === "heat" ? `heat of ${layer.name}` : layer.name), layer.missing ? "none" : "");
      return button;
    });
    panel.replaceChildren(heading(image),
      make("section", {class: "layers"}, make("h3", {}, "Layers"), ...buttons),
      make("section", {}, slider("opacity", "Opacity", look.opacity, 0, 1, 0.01, percent, setOpacity),
        index.targets && scored.length ? checkbox("errors", "Only what differs from ground truth", look.errors, (on) => {
          look.errors = on;
          buildPanel();
          refresh();
        }, "e") : "",
        look.errors ? make("div", {class: "row faint"}, ...["missed", "false", "wrong class", "ignored"].map((name) => {
          const mark = name === "ignored" ? swatch(undecided) : make("span", {class: "swatch"});
          if (name in index.errors) mark.style.backgroundColor = `rgb(${index.errors[name].join(",")})`;
          return make("span", {class: "row"}, mark, name);
        })) : ""),
      ...index.maps.map((map, i) => layers.maps[i] ? ruleSection(map, i) : ""),
      make("section", {id: "scores"}));
    if (focused && panel.querySelector(`[id="${focused}"]`)) $(focused).focus();
  }

  function slider(id, text, value, min, max, step, shown, change) {
    const output = make("output", {for: id}, shown(value));
    const input = make("input", {id, type: "range", min, max, step, value, oninput: (event) => {
      output.value = shown(+event.target.value);
      change(+event.target.value);
    }});
    return make("div", {class: "row"}, make("label", {for: id}, text), input, output);
  }

  function checkbox(id, text, checked, change, key = "") {
    return make("label", {}, make("input", {id, type: "checkbox", checked, onchange: (event) => change(event.target.checked)}),
      text, key ? make("kbd", {}, key) : "");
  }

  function ruleSection(map, i) {
    const settings = rules[i], kinds = [...new Set([map.cues.background, ...(layers.saliency ? ["saliency"] : []), "constant", "power", "rest"])];
    const change = (name) => (value) => {
      settings[name] = value;
      choose({kind: "rule", i});
      curves(i);
    };
    const background = make("select", {id: `background-${i}`, onchange: (event) => {
      change("background")(event.target.value);
      buildPanel();
      choose(look.layer);
    }}, ...kinds.map((kind) => option(kind, kind)));
    background.value = settings.background;
    const parts = settings.background.split("+");
    const section = make("section", {"data-rule": i}, make("h3", {}, named(`Labels from ${plain(map.name)}`)),
      make("div", {class: "row"}, make("label", {for: `background-${i}`}, "background"), background),
      slider(`alpha-${i}`, "alpha", Math.round(settings.alpha * 255), 0, 255, 1, (at) => score(at / 255), (at) => change("alpha")(at / 255)),
      parts.includes("constant") ? slider(`constant-${i}`, "constant", Math.round(settings.constant * 255), 0, 255, 1,
        (at) => score(at / 255), (at) => change("constant")(at / 255)) : "",
      parts.includes("power") ? slider(`power-${i}`, "power", settings.power, 0, 32, 0.125, (at) => at.toFixed(1), change("power")) : "",
      checkbox(`rules-${i}`, "Ignore pixels as pseudo-label does", settings.rules, change("rules")),
      make("div", {class: "curve"}));
    queueMicrotask(() => curves(i));
    return section;
  }

  function moveAlpha(by) {
    const i = look.now.i !== undefined && look.now.kind !== "labels" ? look.now.i : 0, input = $(`alpha-${i}`);
    if (!input) return;
    input.value = +input.value + by;
    input.dispatchEvent(new Event("input"));
  }

  // Mean IoU of all images along the number that is moved, known where the others are as they were at first.
  function curves(i) {
    const place = panel.querySelector(`[data-rule="${i}"] .curve`), sweep = index.sweeps[i];
    if (!place || !sweep) return;
    const now = rules[i], {cues} = index.maps[i], same = (name) => now[name] === cues[name];
    const rest = same("background") && same("power") && !now.rules;
    const constant = !now.background.split("+").includes("constant") || same("constant");
    const name = rest && constant ? "alpha"
      : now.background === "constant" && !cues.background.includes("+") && same("alpha") && !now.rules ? "constant" : null;
    if (name === null) {
      place.replaceChildren(make("p", {class: "faint"}, "All images: known only while the other settings have their initial values."));
      return;
    }
    const points = sweep[name].map((value) => value ?? 0), top = Math.max(...points, 1e-9), at = Math.round(now[name] * 255);
    const svg = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return element;
    };
    const drawn = svg("svg", {viewBox: "0 0 255 40", preserveAspectRatio: "none", role: "img", "aria-label": `mean IoU by ${name}`});
    drawn.append(svg("polyline", {points: points.map((value, x) => `${x},${39 - 37 * value / top}`).join(" ")}),
      svg("line", {x1: at, x2: at, y1: 0, y2: 40}));
    const best = points.indexOf(top);
    place.replaceChildren(drawn, make("p", {class: "faint"},
      `All images: mean IoU ${score(points[at])} at this ${name}; best ${score(top)} at ${score(best / 255)}`));
  }

  function showScores(labels) {
    const section = $("scores"), {kind, i} = look.now, image = imageNow();
    if (!section) return;
    section.replaceChildren();
    let scores = null, note = "";
    if (kind === "labels") scores = scoresOf(image, i);
    if (kind === "rule" && labels) {
      scores = liveScores(labels);
      const exact = layers.maps[i].exact;
      note = exact ? "" : "Approximate: the page holds maps of at most 160 pixels, in 256 steps, and images of at most 1,024 pixels.";
    }
    if (!scores) return;
    const rows = [...scores.iou].map(([label, value]) => make("tr", {}, make("td", {}, swatch(label), named(nameOf(label))),
      make("td", {}, score(value))));
    section.append(make("h3", {}, "Scores of this image"));
    if (!Number.isNaN(scores.mean)) {
      section.append(make("div", {class: "row"}, make("span", {class: "space"}, "mean IoU"),
        make("span", {class: "big", id: "iou"}, score(scores.mean))));
    }
    section.append(make("div", {class: "row"}, make("span", {class: "space"}, "ignored"), make("span", {}, percent(scores.ignored))),
      Number.isNaN(scores.mean) ? "" : make("table", {}, make("tr", {}, make("th", {}, "class"), make("th", {}, "IoU")), ...rows),
      note ? make("p", {class: "faint"}, note) : "");
  }

  function liveScores(labels) {
    const target = layers.target?.values, counts = new Map();
    for (let i = 0; i < labels.length; i++) {
      const truth = target ? target[i] : -1;
      if (truth === index.ignore) continue;
      const key = (truth + 1) * (undecided + 1) + (labels[i] === index.ignore ? undecided : labels[i]);
      counts.set(key, (counts.get(key) || 0) + 1);
    }
    const total = new Counts();
    total.pairs = counts;
    return total.scores();
  }

  // --- light and dark, help, and what the keys do ----------------------------------------------------------------------

  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  let theme = null;
  // Where a browser keeps nothing for pages from disk, the choice is lost with the page.
  try { theme = localStorage.getItem("drstool-gallery-theme"); } catch { /* as said */ }

  function applyTheme() {
    document.documentElement.classList.toggle("dark", theme === null ? preferred.matches : theme === "dark");
  }

  function toggleTheme() {
    theme = document.documentElement.classList.contains("dark") ? "light" : "dark";
    try { localStorage.setItem("drstool-gallery-theme", theme); } catch { /* as said */ }
    applyTheme();
  }

  const KEYS = [
    ["arrows, PgUp, PgDn, Home, End", "go through the grid; Enter opens an image"],
    ["1 … 9", "what the thumbnails show; in an image, its layers"], ["+ −", "size of the thumbnails; in an image, zoom"],
    ["/", "find an id"], ["c", "confusion matrix; arrows move in it, Enter shows a cell's images"],
    ["← →", "in an image: the one before and after, with zoom kept"], ["↑ ↓", "layer above, below"],
    ["Shift + arrows", "move the image"], ["0", "fit the image"], ["Space", "hold to hide the layer"], ["[ ]", "opacity"],
    [", .", "alpha down, up"], ["e", "only what differs from ground truth"], ["Esc", "back"], ["t", "light or dark"]];

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || $("help").open) return;
    const range = event.target instanceof HTMLInputElement && event.target.type === "range";
    const arrows = event.key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(event.key);
    const presses = event.key === " " && event.target.closest("button, input");
    if (typing(event.target) || (range && arrows && !event.shiftKey) || presses) return;
    const done = event.key === "t" ? (toggleTheme(), true) : event.key === "?" ? ($("help").showModal(), true)
      : viewer.open ? viewerKey(event) : gridKey(event);
    if (done) event.preventDefault();
  }

  function fillControls() {
    document.title = `${plain(index.title)} – drstool gallery`;
    $("title").append(named(plain(index.title)));
    $("scored").append(...scored.map((name, i) => option(i, plain(name))));
    $("scored-label").hidden = scored.length < 2;
    $("frame").append(...frames.map(({name}, i) => option(i, name)));
    const present = new Set();
    for (const image of images) {
      for (const label of image.tags || []) present.add(label);
      scored.forEach((_, layer) => scoresOf(image, layer)?.iou.forEach((_, label) => present.add(label)));
    }
    $("class").append(option("", "any"), ...[...present].sort((a, b) => a - b).map((label) => option(label, nameOf(label))));
    const orders = [["order", "dataset"], ["id", "id"], ...(index.targets && scored.length ? [["worst", "IoU, worst first"], ["best", "IoU, best first"]] : []),
      ...(scored.length ? [["ignored", "ignored, most first"]] : []), ...(index.targets && scored.length ? [["pixels", "chosen confusion"]] : [])];
    $("sort").append(...orders.map(([value, text]) => option(value, text)));
    for (const label of document.querySelectorAll(".scores")) label.hidden = !index.targets || !scored.length;
    $("ignored").closest("label").hidden = !scored.length;
    $("matrix-button").hidden = !index.targets || !scored.length;
    $("keys").append(...KEYS.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]));
    // Labels are what one looks for; where there are none, the image.
    state.frame = scored.length ? frames.length - scored.length : 0;
    $("frame").value = state.frame;
  }

  function listen() {
    $("controls").addEventListener("input", (event) => {
      state.layer = +($("scored").value || 0);
      scroll.scrollTop = 0;
      if (event.target === $("frame")) setFrame(+$("frame").value);
      else filter();
    });
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    $("controls").addEventListener("reset", () => {
      state.confusion = null;
      const {frame, layer} = state;
      setTimeout(() => {
        $("frame").value = frame;
        $("scored").value = layer;
        filter();
      });
    });
    $("confusion").addEventListener("click", () => chooseConfusion(null));
    $("matrix-button").addEventListener("click", toggleMatrix);
    $("theme-button").addEventListener("click", toggleTheme);
    $("help-button").addEventListener("click", () => $("help").showModal());
    preferred.addEventListener("change", applyTheme);
    scroll.addEventListener("scroll", () => {
      if (!queued) requestAnimationFrame(render);
      queued = true;
    }, {passive: true});
    new ResizeObserver(() => { if (grid.clientWidth) layout(); }).observe(scroll);
    new ResizeObserver(draw).observe(canvas);
    document.addEventListener("keydown", onKey);
    document.addEventListener("keyup", (event) => {
      if (event.key === " " && look.bare) { look.bare = false; draw(); }
    });
    viewer.addEventListener("close", () => {
      opened++;
      history.replaceState(null, "", "#");
      // The browser has given the focus back to the image that was opened first.
      focusOn(look.place);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, {passive: false});
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) panBy(event.movementX, event.movementY);
    });
  }

  applyTheme();
  fillControls();
  listen();
  filter();
  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
  const at = asked === "" ? -1 : state.shown.findIndex((image) => image.id === asked);
  if (at >= 0) { state.current = at; openViewer(); } else focusOn(0);
  // For tests, which compare with Python what the page makes.
  window.galleryState = {state, look, rules, ruled, layersOf, scoresOf, iou: () => $("iou")?.textContent};
})();
