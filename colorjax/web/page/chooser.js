// The colour of one place: likely ones, common ones, and all that its lightness allows. A hint's
// lightness is the photograph's, so every colour is shown at the lightness of the place.

import {fromHex, inGamut, toHex} from './color.js';

const $ = id => document.getElementById(id);
const COMMON = {
  'light skin': '#e0ac8c', 'dark skin': '#8d5a3c', 'lips': '#b5616a', 'blond hair': '#c9a66b',
  'brown hair': '#5c4033', 'sky': '#87b5e0', 'deep blue': '#2f4f8f', 'water': '#5f9ea0',
  'grass': '#6b8e3d', 'leaves': '#3f6b35', 'olive': '#7b7a4b', 'wood': '#9c6b3f', 'sand': '#d2b48c',
  'brick': '#a4503c', 'red': '#b8283a', 'yellow': '#e3c04a', 'purple': '#7a4f8f', 'denim': '#4f6d94',
};
let shown = {a: 0, b: 0, radius: 110}; // the plane's middle and half its side, in ab
let L = 50, color = '#808080', choose = () => {}, reached = () => {};

/** Calls `handler` with each colour chosen, and whether the choice has come to rest. */
export const onChoose = handler => { choose = handler; };
/** Calls `handler` with each reach chosen, and whether it has come to rest. */
export const onReach = handler => { reached = handler; };

/** Shows a hint at a place of lightness L, with the colours that are likely there. */
export function show(hint, lightness, likely) {
  const other = L !== lightness;
  L = lightness;
  color = hint.color;
  swatches($('likely'), likely.map((text, i) => [`Likely ${i + 1}`, text]));
  swatches($('common'), Object.entries(COMMON).map(([name, text]) => [name, shaded(text)]));
  const [, a, b] = fromHex(color);
  setValues(a, b);
  $('reach').value = Math.log2(hint.reach ?? 1);
  $('reach-value').textContent = `× ${(hint.reach ?? 1).toFixed(1)}`;
  if (other || !$('plane').dataset.drawn) drawPlane();
  drawMark(a, b);
}

// A common colour at the place's lightness: in shade, a thing's chroma falls as its lightness does.
function shaded(text) {
  const [own, a, b] = fromHex(text), share = Math.min(1.1, Math.max(0.25, L / own));
  return toHex(L, share * a, share * b);
}

function setValues(a, b) {
  const hue = Math.round((Math.atan2(b, a) * 180 / Math.PI + 360) % 360), chroma = Math.hypot(a, b);
  if (chroma > 1 && document.activeElement !== $('hue')) $('hue').value = hue;
  if (document.activeElement !== $('chroma')) $('chroma').value = chroma;
  $('hue-value').textContent = `${$('hue').value}°`;
  $('chroma-value').textContent = Math.round($('chroma').value);
}

function swatches(root, colors) {
  root.replaceChildren(...colors.map(([name, text], number) => {
    const [, a, b] = fromHex(text), here = toHex(L, a, b);
    const old = root.children[number], button = old ?? document.createElement('button');
    button.style.background = here;
    button.title = name;
    button.setAttribute('aria-label', `${name}: ${here}`);
    button.setAttribute('aria-pressed', here === color);
    button.onclick = () => choose(here, true);
    return button;
  }));
}

let plane = null;
function drawPlane() {
  const canvas = $('plane'), size = canvas.width;
  plane = new ImageData(size, size);
  shown = gamutBox();
  for (let row = 0, at = 0; row < size; row++) {
    for (let column = 0; column < size; column++, at += 4) {
      const [a, b] = abAt((column + 0.5) / size, (row + 0.5) / size);
      if (!inGamut(L, a, b)) continue;
      const text = toHex(L, a, b);
      for (let i = 0; i < 3; i++) plane.data[at + i] = parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
      plane.data[at + 3] = 255;
    }
  }
  canvas.dataset.drawn = '1';
}

// The square around all colours of the lightness.
function gamutBox() {
  let left = 0, right = 0, low = 0, high = 0;
  for (let hue = 0; hue < 2 * Math.PI; hue += Math.PI / 60) {
    let chroma = 0;
    while (chroma < 140 && inGamut(L, chroma * Math.cos(hue), chroma * Math.sin(hue))) chroma++;
    const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
    [left, right, low, high] = [Math.min(left, a), Math.max(right, a), Math.min(low, b), Math.max(high, b)];
  }
  return {a: (left + right) / 2, b: (low + high) / 2, radius: Math.max(right - left, high - low) / 2 + 4};
}

/** ab at shares of the plane's width and height, and the other way round. */
const abAt = (x, y) => [shown.a + (2 * x - 1) * shown.radius, shown.b + (1 - 2 * y) * shown.radius];
const placeOf = (a, b) =>
  [((a - shown.a) / shown.radius + 1) / 2, (1 - (b - shown.b) / shown.radius) / 2];

function drawMark(a, b) {
  const canvas = $('plane'), context = canvas.getContext('2d'), size = canvas.width;
  context.putImageData(plane, 0, 0);
  const [x, y] = placeOf(a, b).map(share => share * size), [x0, y0] = placeOf(0, 0);
  context.strokeStyle = '#fff';
  context.globalCompositeOperation = 'difference';
  context.strokeRect(size * x0 - 1, size * y0 - 1, 2, 2); // neutral
  context.globalCompositeOperation = 'source-over';
  for (const [width, grey] of [[4, '#000'], [2, '#fff']]) {
    context.beginPath();
    context.arc(x, y, 5, 0, 7);
    context.lineWidth = width;
    context.strokeStyle = grey;
    context.stroke();
  }
}

/** The nearest colour to a, b at the place's lightness, on the line to grey. */
function chooseAb(a, b, rests) {
  while (!inGamut(L, a, b) && Math.hypot(a, b) > 0.5) { a *= 0.97; b *= 0.97; }
  choose(toHex(L, a, b), rests);
}

$('plane').addEventListener('pointerdown', down => {
  const canvas = $('plane');
  canvas.setPointerCapture(down.pointerId);
  const pick = (event, rests) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    chooseAb(...abAt(x, y), rests);
  };
  const move = event => pick(event, false);
  pick(down, false);
  canvas.addEventListener('pointermove', move);
  canvas.addEventListener('lostpointercapture', event => {
    canvas.removeEventListener('pointermove', move);
    pick(event, true);
  }, {once: true});
});
for (const id of ['hue', 'chroma']) {
  for (const kind of ['input', 'change']) {
    $(id).addEventListener(kind, () => {
      const hue = $('hue').value * Math.PI / 180, chroma = Number($('chroma').value);
      chooseAb(chroma * Math.cos(hue), chroma * Math.sin(hue), kind === 'change');
    });
  }
}
for (const kind of ['input', 'change']) {
  $('reach').addEventListener(kind, () =>
    reached(Number((2 ** $('reach').value).toFixed(3)), kind === 'change'));
}
$('neutral').addEventListener('click', () => choose(toHex(L, 0, 0), true));
