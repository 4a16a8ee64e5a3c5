// Turns a picture into network input, as prernn.media.transforms does for evaluation: the shorter side is resized with
// antialiasing, the center cropped, colors normalized. It uses torch's arithmetic for bytes: weights of 16 bits, and
// integers after each of the two passes, so results are identical to the last level.

/**
 * @param {Uint8ClampedArray} pixels RGBA
 * @param {{size: number, resize: ?number, mean: number[], std: number[], grey: boolean}} spec
 * @returns {Float32Array} (3, size, size)
 */
export function transformed(pixels, width, height, spec) {
  const { size } = spec;
  const short = spec.resize ?? size;
  const [wide, high] =
    width <= height ? [short, Math.trunc((short * height) / width)] : [Math.trunc((short * width) / height), short];
  const across = taps(width, wide, half(wide - size), size);
  const down = taps(height, high, half(high - size), size);
  const rows = resizedAcross(pixels, width, height, across);
  const values = resizedDown(rows, size, down);
  return normalized(values, size * size, spec);
}

/** Half of a number, with ties rounded to even, as in Python. */
function half(number) {
  const floor = Math.floor(number / 2);
  return number % 2 === 0 ? number / 2 : floor + (floor % 2);
}

/** For each of `count` outputs from `first` on: where its inputs begin, and their weights, times 2 ** `bits`. */
function taps(from, to, first, count) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const all = Array.from({ length: to }, (_, i) => {
    const center = scale * (i + 0.5);
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const weights = Array.from({ length: end - begin }, (_, j) =>
      Math.max(0, 1 - Math.abs((begin + j - center + 0.5) / support)),
    );
    const sum = weights.reduce((a, b) => a + b, 0);
    return { begin, weights: weights.map((weight) => weight / sum) };
  });
  const most = Math.max(...all.flatMap(({ weights }) => weights));
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + most * 2 ** (bits + 1)) < 2 ** 15) bits += 1;
  const whole = ({ begin, weights }) => ({ begin, weights: weights.map((weight) => Math.trunc(0.5 + weight * 2 ** bits)) });
  return { bits, places: all.slice(first, first + count).map(whole) };
}

function resizedAcross(pixels, width, height, { bits, places }) {
  const out = new Uint8ClampedArray(height * places.length * 3);
  const start = 2 ** (bits - 1); // makes the shift round
  for (let y = 0, place = 0; y < height; y += 1) {
    for (const { begin, weights } of places) {
      let [r, g, b] = [start, start, start];
      for (let j = 0, at = (y * width + begin) * 4; j < weights.length; j += 1, at += 4) {
        r += weights[j] * pixels[at];
        g += weights[j] * pixels[at + 1];
        b += weights[j] * pixels[at + 2];
      }
      out[place++] = r >> bits;
      out[place++] = g >> bits;
      out[place++] = b >> bits;
    }
  }
  return out;
}

function resizedDown(rows, width, { bits, places }) {
  const line = width * 3;
  const out = new Uint8ClampedArray(places.length * line);
  places.forEach(({ begin, weights }, y) => {
    for (let x = 0; x < line; x += 1) {
      let sum = 2 ** (bits - 1);
      for (let j = 0; j < weights.length; j += 1) sum += weights[j] * rows[(begin + j) * line + x];
      out[y * line + x] = sum >> bits;
    }
  });
  return out;
}

function normalized(values, places, { mean, std, grey }) {
  const out = new Float32Array(3 * places);
  for (let i = 0; i < places; i += 1) {
    const colors = values.subarray(3 * i, 3 * i + 3);
    if (grey) colors.fill(Math.trunc(0.2989 * colors[0] + 0.587 * colors[1] + 0.114 * colors[2]));
    for (let c = 0; c < 3; c += 1) {
      out[c * places + i] = (colors[c] / 255 - mean[c % mean.length]) / std[c % std.length];
    }
  }
  return out;
}
