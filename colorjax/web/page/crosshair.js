// The keyboard's place on the picture: arrow keys move it, Enter chooses it.

import * as picture from './picture.js';

const $ = id => document.getElementById(id);
let item = null, place = {x: 0, y: 0}, choose = () => {};

/** Calls `handler` with each place chosen. */
export const onChoose = handler => { choose = handler; };

/** Puts it into the middle of a photograph. */
export function centre(newItem) {
  item = newItem;
  move(item.width / 2, item.height / 2);
}

function move(x, y) {
  place = picture.clamped(x, y);
  picture.put($('crosshair'), place, item);
}

$('surface').addEventListener('focus', () => { if (item) centre(item); });
$('surface').addEventListener('keydown', event => {
  if (event.target !== $('surface') || !item) return;
  const step = picture.stepOf(event);
  if (step) {
    event.preventDefault();
    move(place.x + step[0], place.y + step[1]);
    picture.reveal(place);
  } else if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    choose(place);
  }
});
