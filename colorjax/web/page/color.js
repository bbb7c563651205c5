// Lightness and ab into sRGB: the arithmetic of colorjax/color.py and Colorizer.merge, so that what
// is shown is what will be saved. Grey is an sRGB value 0…255 whose lightness counts; ab is CIE
// a*b* under D65. All of it works on plain arrays.

const KAPPA = 24389 / 27;
const inverse = f => (f > 6 / 29 ? f * f * f : (116 * f - 16) / KAPPA);
const forward = t => (t > 216 / 24389 ? Math.cbrt(t) : (KAPPA * t + 16) / 116);
const toLinear = v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const toGamma = v => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);

// Linear RGB from XYZ relative to white, and back (colorjax.color._TO_RGB, _TO_XYZ).
const RGB = [
  [3.079954467, -1.537138513, -0.542815955],
  [-0.921258284, 1.876010845, 0.045247439],
  [0.052887412, -0.204025914, 1.151138502],
];
const XYZ = [
  [0.433949982, 0.376209746, 0.189840272],
  [0.212672851, 0.715152155, 0.072174993],
  [0.017756579, 0.109467985, 0.872775437],
];

// Of each grey value: f(Y), and Y itself.
const F = Float32Array.from({length: 256}, (_, g) => forward(toLinear(g / 255)));
const Y = Float32Array.from({length: 256}, (_, g) => toLinear(g / 255));
const STEPS = 16384;
const GAMMA = Uint8Array.from({length: STEPS + 1}, (_, i) => Math.round(255 * toGamma(i / STEPS)));

/** L*, 0…100, of a grey value 0…255. */
export const lightness = grey => 116 * F[grey] - 16;

/** Lab → linear RGB, pulled towards the grey of its own Y until it fits the gamut. */
function fitGamut(fy, a, b) {
  const y = Math.min(1, Math.max(0, inverse(fy))), x = inverse(fy + a / 500), z = inverse(fy - b / 200);
  const offsets = RGB.map(row => row[0] * x + row[1] * inverse(fy) + row[2] * z - y);
  const reach = Math.min(1, ...offsets.map(o => (o > 0 ? 1 - y : y) / Math.max(Math.abs(o), 1e-12)));
  return offsets.map(o => Math.min(1, Math.max(0, y + reach * o)));
}

/** Whether a colour is inside the gamut as it is. */
export function inGamut(L, a, b) {
  const fy = (L + 16) / 116, x = inverse(fy + a / 500), y = inverse(fy), z = inverse(fy - b / 200);
  return RGB.every(row => {
    const value = row[0] * x + row[1] * y + row[2] * z;
    return value >= -1e-4 && value <= 1.0001;
  });
}

/** The nearest "#rrggbb" of L*, a and b. */
export function toHex(L, a, b) {
  const levels = fitGamut((L + 16) / 116, a, b).map(v => Math.round(255 * toGamma(v)));
  return '#' + levels.map(v => v.toString(16).padStart(2, '0')).join('');
}

/** "#rrggbb" → [L*, a, b]. */
export function fromHex(text) {
  const linear = [1, 3, 5].map(i => toLinear(parseInt(text.slice(i, i + 2), 16) / 255));
  const [x, y, z] = XYZ.map(row => forward(row[0] * linear[0] + row[1] * linear[1] + row[2] * linear[2]));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

/** Corrections of a whole picture: saturation, tint added to a, warmth to b. */
export function correct(ab, {saturation, warmth, tint}) {
  const out = new Float32Array(ab.length);
  for (let i = 0; i < ab.length; i += 2) {
    out[i] = saturation * ab[i] + tint;
    out[i + 1] = saturation * ab[i + 1] + warmth;
  }
  return out;
}

// Pillow's bicubic weights: `size` pixels from a window [start, end) of `length` cells.
function weights(length, start, end, size) {
  const scale = (end - start) / size, wide = Math.max(1, scale), support = 2 * wide;
  return Array.from({length: size}, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(length, Math.floor(centre + support + 0.5));
    const taps = Array.from({length: last - first}, (_, k) => {
      const t = Math.abs((k + first - centre + 0.5) / wide);
      return t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
    });
    const sum = taps.reduce((total, tap) => total + tap, 0);
    return {first, taps: taps.map(tap => tap / sum)};
  });
}

/** Without colour: grey `height width` → ImageData. */
export function paintGrey({data, width, height}) {
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = 0xff000000 | (data[i] * 0x10101);
  return image;
}

/**
 * Grey {data, width, height} with colour {data, width, height} → ImageData.
 * fraction: [rows, columns] of ab that the photograph fills; part: [left, top, right, bottom] of
 * the photograph that grey shows, in 0…1.
 */
export function paint(grey, ab, fraction, part = [0, 0, 1, 1]) {
  const {width, height} = grey, source = grey.data;
  const rows = ab.height * fraction[0], columns = ab.width * fraction[1];
  const across = weights(ab.width, part[0] * columns, part[2] * columns, width);
  const down = weights(ab.height, part[1] * rows, part[3] * rows, height);
  // Across first: one row of the picture's width for each row of ab.
  const low = down[0].first, high = down[height - 1].first + down[height - 1].taps.length;
  const wide = new Float32Array((high - low) * width * 2);
  for (let row = low; row < high; row++) {
    for (let x = 0, to = (row - low) * width * 2; x < width; x++, to += 2) {
      const {first, taps} = across[x];
      let a = 0, b = 0;
      for (let k = 0, from = (row * ab.width + first) * 2; k < taps.length; k++, from += 2) {
        a += taps[k] * ab.data[from];
        b += taps[k] * ab.data[from + 1];
      }
      wide[to] = a;
      wide[to + 1] = b;
    }
  }
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  const line = new Float32Array(2 * width);
  const [[r0, r1, r2], [g0, g1, g2], [b0, b1, b2]] = RGB;
  for (let row = 0, i = 0; row < height; row++) {
    line.fill(0);
    const {first, taps} = down[row];
    for (let k = 0; k < taps.length; k++) {
      const tap = taps[k], from = (first + k - low) * width * 2;
      for (let x = 0; x < 2 * width; x++) line[x] += tap * wide[from + x];
    }
    for (let x = 0; x < width; x++, i++) {
      const grey = source[i], fy = F[grey], y = Y[grey];
      const fx = fy + line[2 * x] / 500, fz = fy - line[2 * x + 1] / 200;
      const X = fx > 6 / 29 ? fx * fx * fx : (116 * fx - 16) / KAPPA;
      const Z = fz > 6 / 29 ? fz * fz * fz : (116 * fz - 16) / KAPPA;
      let r = r0 * X + r1 * y + r2 * Z, g = g0 * X + g1 * y + g2 * Z, b = b0 * X + b1 * y + b2 * Z;
      if (r < 0 || g < 0 || b < 0 || r > 1 || g > 1 || b > 1) {
        let reach = 1;
        if (r < 0) reach = Math.min(reach, y / (y - r));
        if (g < 0) reach = Math.min(reach, y / (y - g));
        if (b < 0) reach = Math.min(reach, y / (y - b));
        if (r > 1) reach = Math.min(reach, (1 - y) / (r - y));
        if (g > 1) reach = Math.min(reach, (1 - y) / (g - y));
        if (b > 1) reach = Math.min(reach, (1 - y) / (b - y));
        r = Math.min(1, Math.max(0, y + reach * (r - y)));
        g = Math.min(1, Math.max(0, y + reach * (g - y)));
        b = Math.min(1, Math.max(0, y + reach * (b - y)));
      }
      out[i] = 0xff000000 | (GAMMA[(b * STEPS + 0.5) | 0] << 16)
        | (GAMMA[(g * STEPS + 0.5) | 0] << 8) | GAMMA[(r * STEPS + 0.5) | 0];
    }
  }
  return image;
}
