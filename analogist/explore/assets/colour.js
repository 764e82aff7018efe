// Colours: lightness rises evenly with the value, so that every kind of colour vision reads the same order.
const SEQUENTIAL = [
  [0.27, 0.08, 275],
  [0.41, 0.13, 300],
  [0.56, 0.17, 345],
  [0.72, 0.16, 45],
  [0.84, 0.15, 85],
  [0.96, 0.09, 105],
];
const NEGATIVE = [0.74, 0.13, 245];
const POSITIVE = [0.78, 0.15, 62];

/** OKLCH (lightness, chroma, hue in degrees) to sRGB bytes. Source: Ottosson 2020, OKLab. */
function rgb([lightness, chroma, hue]) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((v) => {
    const c = Math.min(1, Math.max(0, v));
    return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
  });
}

/**
 * 256 entries of red, green, blue, alpha. The picture shows through where the value is small; evenly so below the middle, since
 * there
 * the colours are darker than a grey picture and covering more would make more attention look darker.
 */
const RAMP = new Uint8ClampedArray(1024);
const DIVERGING = new Uint8ClampedArray(1024);
for (let i = 0; i < 256; i++) {
  const place = (i / 255) * (SEQUENTIAL.length - 1);
  const k = Math.min(SEQUENTIAL.length - 2, Math.floor(place));
  const mix = SEQUENTIAL[k].map(
    (v, j) => v + (place - k) * (SEQUENTIAL[k + 1][j] - v + (j === 2 ? turn(SEQUENTIAL[k][2], SEQUENTIAL[k + 1][2]) : 0)),
  );
  RAMP.set([...rgb(mix), 255 * (0.5 + 0.43 * Math.max(0, (i / 255 - 0.4) / 0.6))], 4 * i);
  const t = (i - 127.5) / 127.5;
  DIVERGING.set([...rgb(t < 0 ? NEGATIVE : POSITIVE), 255 * 0.95 * Math.abs(t) ** 0.7], 4 * i);
}

/** What to add so that the way from one hue to the next is the short one. */
function turn(from, to) {
  return to - from > 180 ? -360 : to - from < -180 ? 360 : 0;
}

/** The range that a scale runs over: of one or several maps together. unit: probs, logits or change. */
function rangeOf(maps, unit) {
  let low = Infinity;
  let high = -Infinity;
  for (const map of maps) {
    for (const value of map.values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (unit === "change") {
    high = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return { unit, low: -high, high };
  }
  if (unit === "probs") low = Math.min(0, low);
  return { unit, low, high: high > low ? high : low + 1 };
}

/** The place of a value on the ramp, 0 to 255. */
function placeOf(value, range, scale) {
  const t = (value - range.low) / (range.high - range.low);
  return Math.max(
    0,
    Math.min(255, Math.round(255 * (scale === "sqrt" && range.unit === "probs" ? Math.sqrt(Math.max(0, t)) : t))),
  );
}

/** A map as pixels, one a token. */
function imageOf(map, range, scale) {
  const table = range.unit === "change" ? DIVERGING : RAMP;
  const image = new ImageData(map.hw[1], map.hw[0]);
  map.values.forEach((value, i) => {
    const place = 4 * placeOf(value, range, scale);
    image.data.set(table.subarray(place, place + 4), 4 * i);
  });
  return image;
}
