// The rule of drstool/cues.py: object cues against a background cue, in float32 as there, so that both give the
// same labels. A test compares them.
"use strict";

const Cues = (() => {
  const f32 = Math.fround;

  // Linear interpolation along the columns of `rows` rows, or along the rows of `count` pictures, ends aligned.
  function positions(before, after) {
    const ratio = after > 1 ? f32((before - 1) / (after - 1)) : 0;
    const lower = new Int32Array(after), upper = new Int32Array(after), weight = new Float32Array(after);
    for (let i = 0; i < after; i++) {
      const position = f32(i * ratio);
      lower[i] = Math.min(Math.floor(position), before - 1);
      upper[i] = Math.min(lower[i] + 1, before - 1);
      weight[i] = Math.min(Math.max(f32(position - lower[i]), 0), 1);
    }
    return {lower, upper, weight};
  }

  // Maps (count, h, w) of bytes as values in [0, 1] at a picture's size: Float32Array of (count, height, width).
  function resize(bytes, [count, h, w], [height, width]) {
    const value = Float32Array.from({length: 256}, (_, byte) => byte / 255);
    const x = positions(w, width), y = positions(h, height);
    const wide = new Float32Array(count * h * width), result = new Float32Array(count * height * width);
    for (let row = 0; row < count * h; row++) {
      for (let i = 0; i < width; i++) {
        const a = value[bytes[row * w + x.lower[i]]], b = value[bytes[row * w + x.upper[i]]], t = x.weight[i];
        wide[row * width + i] = w === width ? a : f32(a * f32(1 - t)) + f32(b * t);
      }
    }
    if (h === height) return wide;
    for (let c = 0; c < count; c++) {
      for (let j = 0; j < height; j++) {
        const a = (c * h + y.lower[j]) * width, b = (c * h + y.upper[j]) * width, t = y.weight[j], s = f32(1 - t);
        const to = (c * height + j) * width;
        for (let i = 0; i < width; i++) result[to + i] = f32(wide[a + i] * s) + f32(wide[b + i] * t);
      }
    }
    return result;
  }

  function saliencyValues(saliency, settings) {
    const values = new Float32Array(saliency.length);
    let scale = settings.saliency_scale;
    if (settings.soft && !scale) {
      let most = 0;
      for (const grey of saliency) most = Math.max(most, grey);
      scale = 1 / Math.max(f32(most / 255), f32(1 / 255));
    }
    scale = f32(scale);
    for (let i = 0; i < values.length; i++) {
      values[i] = !settings.soft ? +(saliency[i] > settings.saliency_threshold)
        : scale === 1 ? f32(saliency[i] / 255) : Math.min(f32(f32(saliency[i] / 255) * scale), 1);
    }
    return values;
  }

  function backgroundCue(kind, maps, count, size, settings, salient) {
    const cue = new Float32Array(size);
    if (kind === "constant") return cue.fill(Math.max(settings.constant, 0));
    const power = f32(settings.power);
    for (let i = 0; i < size; i++) {
      let sum = 0, strongest = 0;
      for (let c = 0; c < count; c++) {
        sum = f32(sum + maps[c * size + i]);
        strongest = Math.max(strongest, maps[c * size + i]);
      }
      cue[i] = kind === "saliency" ? f32(1 - salient[i]) : kind === "rest" ? Math.max(f32(1 - sum), 0)
        : Math.pow(f32(1 - Math.min(strongest, 1)), power);
    }
    return cue;
  }

  // Labels of the strongest cues. `maps` as resize gives them, `labels` of its channels, ascending, `saliency` bytes
  // at the picture's size or null, `ignore` the label of ignored pixels; with `rules`, those that ignore pixels apply.
  function labelsOf(maps, labels, size, settings, saliency, ignore, rules) {
    const kinds = settings.background.split("+"), count = labels.length;
    const salient = kinds.includes("saliency") ? saliencyValues(saliency, settings) : null;
    const cues = kinds.map((kind) => backgroundCue(kind, maps, count, size, settings, salient));
    const combine = settings.combine === "min" ? Math.min : Math.max;
    const alpha = f32(settings.alpha), conflict = f32(settings.conflict), below = f32(settings.background_below);
    const result = new Uint16Array(size);
    for (let i = 0; i < size; i++) {
      let background = cues[0][i];
      for (let k = 1; k < cues.length; k++) background = combine(background, cues[k][i]);
      let label = 0, best = 0, strongest = 0, confident = +(background > conflict);
      for (let c = 0; c < count; c++) {
        const value = maps[c * size + i];
        strongest = Math.max(strongest, value);
        if (value < alpha) continue;
        if (value > best) { best = value; label = labels[c]; }
        confident += value > conflict;
      }
      if (best <= background) label = 0;
      result[i] = label;
      if (!rules) continue;
      const certain = salient !== null
        && (settings.soft ? salient[i] > conflict : saliency[i] > settings.saliency_threshold);
      const doubtful = certain || (settings.background_below < 1 && strongest > below);
      if (confident > 2 || (label === 0 && doubtful)) result[i] = ignore;
    }
    return result;
  }

  return {resize, labelsOf};
})();
