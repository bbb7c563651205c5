// The photographs of the sitting: a row of thumbnails, filled one after another.

import {paint} from './color.js';

const $ = id => document.getElementById(id);
let open = () => {}, remove = () => {};
const tiles = new Map();
let total = 0, finished = 0;

/** What to do when a photograph is chosen or removed. */
export const handle = handlers => { ({open, remove} = handlers); };

/** A tile for a file that is on its way; returns what to call when it has come or failed. */
export function waiting(name) {
  const row = document.createElement('li'), state = document.createElement('span');
  row.append(state);
  state.className = 'state';
  state.style.width = '84px';
  state.textContent = 'waiting';
  row.title = name;
  $('items').append(row);
  total++;
  progress();
  const end = () => { finished++; row.remove(); progress(); };
  return {colouring: () => { state.textContent = 'colouring…'; }, end};
}

/** Puts a photograph into the row. */
export function add(item, grey, ab) {
  const row = document.createElement('li'), button = document.createElement('button');
  const canvas = document.createElement('canvas');
  button.append(canvas);
  button.title = item.name;
  button.setAttribute('aria-label', `${item.name}${item.film ? ' (film)' : ''}`);
  button.addEventListener('click', () => open(item.id));
  button.addEventListener('keydown', event => {
    if (event.key === 'Delete') remove(item.id);
    const step = {ArrowLeft: row.previousElementSibling, ArrowRight: row.nextElementSibling}[event.key];
    step?.querySelector('button')?.focus();
  });
  const close = document.createElement('button');
  close.className = 'close';
  close.textContent = '×';
  close.setAttribute('aria-label', `Take ${item.name} out of the row`);
  close.addEventListener('click', () => remove(item.id));
  row.append(button, close);
  const firstWaiting = [...$('items').children].find(other => other.querySelector('.state'));
  $('items').insertBefore(row, firstWaiting ?? null);
  tiles.set(item.id, {row, button, canvas, grey, fraction: item.fraction});
  draw(item.id, ab);
  progress();
}

/** Draws a thumbnail in colour. */
export function draw(id, ab) {
  const tile = tiles.get(id);
  if (!tile) return;
  const image = paint(tile.grey, ab, tile.fraction);
  tile.canvas.width = image.width;
  tile.canvas.height = image.height;
  tile.canvas.getContext('2d').putImageData(image, 0, 0);
}

/** Marks the photograph that is open. */
export function select(id) {
  for (const [other, {button}] of tiles) {
    if (other === id) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
  }
  tiles.get(id)?.row.scrollIntoView({block: 'nearest', inline: 'nearest'});
}

/** Takes a photograph out of the row. */
export function drop(id) {
  tiles.get(id)?.row.remove();
  tiles.delete(id);
  progress();
}

function progress() {
  $('strip').hidden = $('items').children.length === 0;
  $('done').hidden = finished === total;
  $('done').max = Math.max(1, total);
  $('done').value = finished;
  $('count').textContent = finished < total ? `${finished} of ${total}`
    : tiles.size === 1 ? '1 photograph' : `${tiles.size} photographs`;
  if (finished === total) finished = total = 0;
}
