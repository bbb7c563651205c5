// The hints on the picture: one button each, to be dragged, or moved by the arrow keys.

import * as picture from './picture.js';

const root = document.getElementById('hints');
let current = [];
const calls = {select() {}, move() {}, settle() {}, remove() {}};

/** What to do when a hint is chosen, moved, let go or removed. */
export const handle = handlers => Object.assign(calls, handlers);

/** Draws the hints of an edit anew; the one with number `selected` stands out. */
export function draw(item, hints, selected) {
  current = hints;
  while (root.children.length > hints.length) root.lastChild.remove();
  while (root.children.length < hints.length) root.append(button(root.children.length));
  hints.forEach((hint, number) => {
    const mark = root.children[number];
    picture.put(mark, hint, item);
    mark.style.background = hint.color;
    mark.hidden = Boolean(item.film) && Math.abs((hint.time ?? 0) - item.film.time) > 0.05;
    mark.setAttribute('aria-pressed', number === selected);
    mark.setAttribute('aria-label',
      `Hint ${number + 1}: ${hint.color} at ${Math.round(hint.x)}, ${Math.round(hint.y)}`);
  });
}

/** Puts the keyboard's focus on a hint. */
export const focus = number => root.children[number]?.focus({preventScroll: true});

function button(number) {
  const mark = document.createElement('button');
  mark.className = 'hint';
  mark.title = 'Drag to move, Delete or right-click to remove';
  mark.addEventListener('focus', () => calls.select(number));
  mark.addEventListener('click', event => { event.stopPropagation(); calls.select(number); });
  mark.addEventListener('contextmenu', event => { event.preventDefault(); calls.remove(number); });
  mark.addEventListener('pointerdown', down => {
    if (down.button !== 0) return;
    mark.setPointerCapture(down.pointerId);
    let moved = false;
    const move = event => {
      if (!moved && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 4) return;
      moved = true;
      calls.move(number, picture.placeOf(event));
    };
    const up = () => {
      mark.removeEventListener('pointermove', move);
      calls.settle();
    };
    mark.addEventListener('pointermove', move);
    mark.addEventListener('lostpointercapture', up, {once: true});
  });
  mark.addEventListener('keydown', event => {
    const step = picture.stepOf(event);
    if (step) {
      event.preventDefault();
      const {x, y} = current[number];
      calls.move(number, picture.clamped(x + step[0], y + step[1]));
    } else if (event.key === 'Delete' || event.key === 'Backspace') {
      event.preventDefault();
      calls.remove(number);
    }
  });
  mark.addEventListener('keyup', event => { if (event.key.startsWith('Arrow')) calls.settle(); });
  return mark;
}
