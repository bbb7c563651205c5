// The picture on its stage: before and after, fit or 100 %, panned by scrolling or dragging. Places
// are pixels of the photograph.

import {lightness, paint, paintGrey} from './color.js';

const $ = id => document.getElementById(id);
const stage = $('stage'), scroller = $('scroller'), surface = $('surface'), frame = $('frame');
const compare = $('compare'), line = $('line');
const layers = {before: $('before'), after: $('after')};
const details = {before: $('detail-before'), after: $('detail-after')};

let item = null, grey = null, ab = null, image = null, zoomed = false;
let part = null; // of the photograph at full resolution: {grey, left, top}
let fetchDetail = async () => null, loseDetail = 0;

/** How many pixels of the screen the longer side takes when it fits. */
export function sideThatFits({width, height}) {
  const room = zoomed ? {width: stage.clientWidth, height: stage.clientHeight}
    : {width: stage.clientWidth - 2 * margin(), height: stage.clientHeight - 2 * margin()};
  const scale = Math.min(room.width / width, room.height / height);
  return Math.max(width, height) * scale * devicePixelRatio;
}

const margin = () => parseFloat(getComputedStyle(scroller).paddingLeft);

/** Shows another photograph, or the same at another size. */
export function show(newItem, newGrey, detail) {
  const other = item?.id !== newItem.id;
  item = newItem;
  grey = newGrey;
  fetchDetail = detail;
  if (other) ab = image = null;
  part = null;
  fill(layers.before, paintGrey(grey));
  if (!ab) fill(layers.after, paintGrey(grey));
  layout();
}

/** Gives the picture its colour. */
export function setColor(newAb) {
  ab = newAb;
  image = paint(grey, ab, item.fraction);
  fill(layers.after, image);
  paintDetail();
  surface.dataset.painted = Number(surface.dataset.painted || 0) + 1;
}

function fill(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/** The colour shown at a place, as "#rrggbb". */
export function colorAt(x, y) {
  const at = 4 * (pixel(y, item.height, image.height) * image.width + pixel(x, item.width, image.width));
  return '#' + [0, 1, 2].map(i => image.data[at + i].toString(16).padStart(2, '0')).join('');
}

/** L* at a place. */
export const lightnessAt = (x, y) => lightness(
  grey.data[pixel(y, item.height, grey.height) * grey.width + pixel(x, item.width, grey.width)]);

const pixel = (value, length, pixels) =>
  Math.min(pixels - 1, Math.floor((value + 0.5) / length * pixels));

/** The place under a pointer. */
export function placeOf(event) {
  const box = surface.getBoundingClientRect();
  return clamped((event.clientX - box.left) / box.width * item.width - 0.5,
    (event.clientY - box.top) / box.height * item.height - 0.5);
}

/** A place inside the photograph, in whole pixels. */
export const clamped = (x, y) => ({
  x: Math.min(item.width - 1, Math.max(0, Math.round(x))),
  y: Math.min(item.height - 1, Math.max(0, Math.round(y))),
});

/** Puts an element of the surface at a place of a photograph. */
export function put(element, {x, y}, {width, height}) {
  element.style.left = `${100 * (x + 0.5) / width}%`;
  element.style.top = `${100 * (y + 0.5) / height}%`;
}

/** What an arrow key moves a place by, in pixels, with Shift five times as much; else null. */
export function stepOf(event) {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const share = event.shiftKey ? 0.05 : 0.01;
  const step = Math.max(1, Math.round(share * Math.max(item.width, item.height)));
  return way ? way.map(sign => sign * step) : null;
}

/** Whether a place shows the picture without colour. */
export const isBefore = x => {
  const shown = visible();
  return (x + 0.5) / item.width * surface.clientWidth < shown.left + split() * shown.width;
};
export const split = () => compare.value / 100;
export function setSplit(share) {
  compare.value = 100 * share;
  drawSplit();
}

export const isZoomed = () => zoomed;
/** Fit, or one pixel of the photograph for one of the screen, around a place. */
export function setZoom(full, place) {
  zoomed = full;
  stage.classList.toggle('zoomed', full);
  $('fit').setAttribute('aria-pressed', !full);
  $('full').setAttribute('aria-pressed', full);
  layout();
  if (full) {
    place ??= {x: item.width / 2, y: item.height / 2};
    scroller.scrollTo(place.x / item.width * surface.clientWidth - stage.clientWidth / 2,
      place.y / item.height * surface.clientHeight - stage.clientHeight / 2);
  }
  scheduleDetail();
}
/** Scrolls a place into view. */
export function reveal({x, y}) {
  if (!zoomed) return;
  const left = x / item.width * surface.clientWidth, top = y / item.height * surface.clientHeight;
  const shown = visible();
  if (left < shown.left || left > shown.left + shown.width || top < shown.top || top > shown.top + shown.height) {
    scroller.scrollTo(left - stage.clientWidth / 2, top - stage.clientHeight / 2);
  }
}

/** Sizes and places everything anew. */
export function layout() {
  if (!item) return;
  const side = zoomed ? Math.max(item.width, item.height) : sideThatFits(item);
  const scale = side / Math.max(item.width, item.height) / devicePixelRatio;
  surface.style.width = `${item.width * scale}px`;
  surface.style.height = `${item.height * scale}px`;
  drawSplit();
}

// The part of the surface that is to be seen.
function visible() {
  const box = surface.getBoundingClientRect(), view = scroller.getBoundingClientRect();
  const left = Math.max(box.left, view.left), top = Math.max(box.top, view.top);
  const right = Math.min(box.right, view.left + scroller.clientWidth);
  const bottom = Math.min(box.bottom, view.top + scroller.clientHeight);
  return {left: left - box.left, top: top - box.top, width: right - left, height: bottom - top, box, view};
}

function drawSplit() {
  const shown = visible(), at = split();
  frame.style.left = `${shown.left + shown.box.left - shown.view.left}px`;
  frame.style.top = `${shown.top + shown.box.top - shown.view.top}px`;
  frame.style.width = `${shown.width}px`;
  frame.style.height = `${shown.height}px`;
  line.style.left = `${100 * at}%`;
  frame.querySelector('.left').hidden = at * shown.width < 80;
  frame.querySelector('.right').hidden = (1 - at) * shown.width < 80;
  const x = shown.left + at * shown.width;
  layers.before.style.clipPath = `inset(0 ${Math.max(0, shown.box.width - x)}px 0 0)`;
  const left = parseFloat(details.before.style.left || 0), width = parseFloat(details.before.style.width || 0);
  details.before.style.clipPath = `inset(0 ${Math.max(0, left + width - x)}px 0 0)`;
}

// At 100 % the part that is seen comes at full resolution, once scrolling rests.
function scheduleDetail() {
  clearTimeout(loseDetail);
  const needed = zoomed && grey && Math.max(item.width, item.height) > Math.max(grey.width, grey.height);
  for (const canvas of Object.values(details)) canvas.hidden = !needed || !part;
  if (needed) loseDetail = setTimeout(loadDetail, 120);
}

async function loadDetail() {
  const shown = visible(), scale = item.width / surface.clientWidth, wanted = item.id;
  const box = {
    left: Math.floor(shown.left * scale), top: Math.floor(shown.top * scale),
    width: Math.ceil(shown.width * scale) + 1, height: Math.ceil(shown.height * scale) + 1,
  };
  const found = await fetchDetail(box);
  if (!found || item.id !== wanted || !zoomed) return;
  part = {grey: found, ...box};
  fill(details.before, paintGrey(found));
  for (const canvas of Object.values(details)) {
    canvas.style.left = `${box.left / scale}px`;
    canvas.style.top = `${box.top / scale}px`;
    canvas.style.width = `${found.width / scale}px`;
    canvas.style.height = `${found.height / scale}px`;
    canvas.hidden = false;
  }
  paintDetail();
  drawSplit();
}

function paintDetail() {
  if (!part || !zoomed || !ab) return;
  const {left, top, grey: {width, height}} = part;
  fill(details.after, paint(part.grey, ab, item.fraction, [
    left / item.width, top / item.height, (left + width) / item.width, (top + height) / item.height]));
}

compare.addEventListener('input', drawSplit);
new ResizeObserver(layout).observe(stage);
scroller.addEventListener('scroll', () => { drawSplit(); scheduleDetail(); });

// Dragging pans, where there is something to pan; otherwise it is a click.
let dragged = false;
surface.addEventListener('pointerdown', down => {
  dragged = false;
  if (down.button !== 0 || down.pointerType === 'touch' || down.target.closest('.hint')) return;
  const start = {left: scroller.scrollLeft, top: scroller.scrollTop};
  const move = event => {
    const dx = event.clientX - down.clientX, dy = event.clientY - down.clientY;
    if (Math.hypot(dx, dy) > 5) dragged = true;
    if (dragged && zoomed) scroller.scrollTo(start.left - dx, start.top - dy);
  };
  const up = () => {
    removeEventListener('pointermove', move);
    removeEventListener('pointerup', up);
    removeEventListener('pointercancel', up);
  };
  addEventListener('pointermove', move);
  addEventListener('pointerup', up);
  addEventListener('pointercancel', up);
});
/** Calls `handler` with the place of each click that is no drag. */
export function onClick(handler) {
  surface.addEventListener('click', event => {
    if (dragged || event.target.closest('.hint') || !item) return;
    handler(placeOf(event));
  });
}
