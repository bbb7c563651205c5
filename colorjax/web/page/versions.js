// Versions to begin with: a button each, with the photograph in small.

import {paint} from './color.js';

const root = document.getElementById('versions');
let versions = [];

/** Makes the buttons; `choose` is called with the version of the one that is pressed. */
export function build(offered, choose) {
  versions = offered;
  root.replaceChildren(...versions.map(version => {
    const button = document.createElement('button'), name = document.createElement('span');
    button.append(document.createElement('canvas'), name);
    name.textContent = version.name;
    button.title = version.about;
    button.addEventListener('click', () => choose(version));
    return button;
  }));
}

/** Marks the version that an edit has. */
export function mark(edit) {
  for (const [number, version] of versions.entries()) {
    root.children[number].setAttribute('aria-pressed',
      version.saturation === edit.saturation && version.rarity === edit.rarity);
  }
}

/** Draws a photograph in the colour of the version with this number. */
export function draw(number, grey, ab, fraction) {
  const image = paint(grey, ab, fraction), canvas = root.children[number].querySelector('canvas');
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d').putImageData(image, 0, 0);
}
