// The page: what the person does on one side, the server's answers on the other.

import {correct} from './color.js';
import * as chooser from './chooser.js';
import * as crosshair from './crosshair.js';
import {Edits} from './edits.js';
import * as files from './files.js';
import * as hints from './hints.js';
import {busy, say, trying} from './messages.js';
import * as picture from './picture.js';
import * as saving from './saving.js';
import * as server from './server.js';
import * as strip from './strip.js';
import * as versions from './versions.js';

const $ = id => document.getElementById(id);
const SLIDERS = ['saturation', 'warmth', 'tint', 'rarity'];
const items = new Map(); // id → what the server says of a photograph, and its edits
let settings = null; // what the weights say: {saturation, rarity, versions}
let current = null; // the photograph that is open
let selected = -1; // number of the hint that is chosen
let likely = []; // colours at its place
let side = 0; // pixels of the preview's longer side
let example = null;

// Photographs come and go.

const photographs = () => [...items.values()].filter(item => item !== example);

async function take(item) {
  item.edits = new Edits({...neutral(), ...item.edit});
  item.bases = new Map();
  items.set(item.id, item);
  if (item.example) {
    example = item;
    return;
  }
  const [grey, ab] = await Promise.all([server.preview(item.id, 168), server.color(item.id, item.edits.now, false)]);
  strip.add(item, grey, ab);
}

const neutral = () => ({hints: [], saturation: settings.saturation, warmth: 0, tint: 0, rarity: settings.rarity});

const queue = [];
let working = false;
async function addFiles(added) {
  let first = true; // of those that came together: it is shown at once
  for (const file of added) {
    if (file.name.endsWith('.json')) await loadHints(file);
    else enqueue(file.name, () => server.add(file), first);
    first = false;
  }
  await work();
}

const enqueue = (name, add, show = false) => queue.push({add, show, tile: strip.waiting(name)});

// One after another: the server does one thing at a time as well.
async function work() {
  if (queue.length) $('invitation').hidden = true;
  if (working) return;
  working = true;
  while (queue.length) {
    const {add, show, tile} = queue.shift();
    tile.colouring();
    await trying(async () => {
      const item = await add();
      await take(item);
      if (show || !current || current === example) await open(item.id);
    })();
    tile.end();
  }
  working = false;
  if (!current) begin();
  showItemsLeft();
}

const loadHints = trying(async file => {
  if (!current) return say('Open a photograph first, then drop its hints on it.');
  const edit = await server.readHints(current.id, file);
  change({...neutral(), ...edit});
  selected = -1;
  showEdit();
});

const removeItem = trying(async id => {
  await server.remove(id);
  items.delete(id);
  strip.drop(id);
  if (current?.id === id) {
    current = null;
    const next = photographs()[0];
    if (next) await open(next.id);
    else begin();
  }
});

async function open(id) {
  const item = items.get(id);
  current = item;
  selected = -1;
  const [grey] = await Promise.all([fetchPreview(item), baseOf(item, item.edits.now.rarity)]);
  if (current !== item) return;
  if (picture.isZoomed()) picture.setZoom(false);
  picture.show(item, grey, box => trying(server.detail)(item.id, box));
  picture.setSplit(item === example ? 0.5 : item.split ?? 0.12);
  $('surface').setAttribute('aria-label', item.name);
  crosshair.centre(item);
  $('invitation').hidden = item !== example;
  busy();
  document.title = item === example ? 'colorjax' : `${item.name} · colorjax`;
  strip.select(id);
  showItem();
  await refresh();
  document.documentElement.dataset.opened = item.name;
  drawVersions();
}

async function fetchPreview(item) {
  side = Math.min(1600, Math.ceil(picture.sideThatFits(item) / 100) * 100, Math.max(item.width, item.height));
  return server.preview(item.id, side);
}

// No photograph: the example, if there is one.
function begin() {
  if (example) return open(example.id);
  $('invitation').hidden = false;
}

function showItemsLeft() {
  $('save-all').disabled = photographs().filter(item => !item.film).length < 2;
}

// Colour. What the browser can do alone it does at once; the server hears of every edit, the
// newest as soon as it has answered the one before.

async function baseOf(item, rarity) {
  item.base = {...await baseFor(item, rarity), rarity};
}

// What the network says by itself, at saturation 1.
function baseFor(item, rarity) {
  if (!item.bases.has(rarity)) {
    const alone = {hints: [], saturation: 1, warmth: 0, tint: 0, rarity};
    const base = server.color(item.id, alone, false);
    base.catch(() => item.bases.delete(rarity));
    item.bases.set(rarity, base);
  }
  return item.bases.get(rarity);
}

const corrected = (base, edit) => ({...base, data: correct(base.data, edit)});

let sending = null, again = false;
function refresh() {
  const item = current, edit = item.edits.now, alone = edit.hints.length === 0;
  if (alone && item.base?.rarity === edit.rarity) picture.setColor(corrected(item.base, edit));
  if (sending) {
    again = true;
    return sending;
  }
  sending = trying(async () => {
    do {
      again = false;
      const item = current, edit = item.edits.now;
      const ab = await server.color(item.id, edit, true);
      const local = edit.hints.length === 0 && item.base?.rarity === edit.rarity;
      if (item === current && !local) picture.setColor(ab);
      if (edit === item.edits.now) {
        strip.draw(item.id, ab);
        if (edit.hints.length === 0) await baseOf(item, edit.rarity);
        if (item === current) showCommand();
      }
    } while (again);
  })().finally(() => { sending = null; });
  return sending;
}

function change(changes, group = null) {
  current.edits.change(changes, group);
  showEdit();
  return refresh();
}

function settle() {
  current?.edits.settle();
}

// Hints.

function edited(number, changes) {
  return current.edits.now.hints.map((hint, i) => (i === number ? {...hint, ...changes} : hint));
}

const addHint = trying(async place => {
  const item = current;
  if (!item) return;
  if ($('eyedropper').getAttribute('aria-pressed') === 'true') return pickColor(place);
  const found = await server.suggest(item.id, place.x, place.y);
  if (item !== current) return;
  const color = found[0] ?? picture.colorAt(place.x, place.y);
  if (picture.isBefore(place.x)) picture.setSplit(0);
  likely = found;
  selected = item.edits.now.hints.length;
  const hint = item.film ? {...place, color, time: item.film.time} : {...place, color};
  await change({hints: [...item.edits.now.hints, hint]});
  hints.focus(selected);
});

function pickColor(place) {
  setEyedropper(false);
  const color = picture.colorAt(place.x, place.y);
  change({hints: edited(selected, {color})});
  hints.focus(selected);
}

function setEyedropper(on) {
  $('eyedropper').setAttribute('aria-pressed', on);
  if (on) $('surface').focus();
}

const selectHint = trying(async number => {
  if (number === selected) return;
  selected = number;
  showEdit();
  await fetchLikely();
});

const fetchLikely = trying(async () => {
  const hint = current.edits.now.hints[selected];
  if (!hint) return;
  const found = await server.suggest(current.id, hint.x, hint.y);
  if (hint === current.edits.now.hints[selected]) {
    likely = found;
    showChooser();
  }
});

function removeHint(number) {
  const rest = current.edits.now.hints.filter((_, i) => i !== number);
  selected = -1;
  change({hints: rest});
  if (rest.length) hints.focus(Math.min(number, rest.length - 1));
  else $('surface').focus({preventScroll: true});
}

// What is shown of the edit.

function showEdit() {
  const edit = current.edits.now;
  if (selected >= edit.hints.length) selected = -1;
  hints.draw(current, edit.hints, selected);
  $('undo').disabled = !current.edits.canUndo;
  $('redo').disabled = !current.edits.canRedo;
  for (const name of SLIDERS) {
    $(name).value = edit[name];
    const value = Number(edit[name]);
    $(`${name}-value`).textContent = name === 'saturation' ? `× ${value.toFixed(2)}`
      : `${value > 0 ? '+' : ''}${value.toFixed(name === 'rarity' ? 2 : 1).replace(/\.0$/, '')}`;
  }
  versions.mark(edit);
  showChooser();
}

function showChooser() {
  const hint = current.edits.now.hints[selected];
  $('chooser').hidden = !hint;
  $('no-place').hidden = Boolean(hint);
  if (hint) chooser.show(hint, picture.lightnessAt(hint.x, hint.y), likely);
}

function showItem() {
  $('film').hidden = !current.film;
  $('save').disabled = Boolean(current.film);
  showItemsLeft();
  $('keep-label').hidden = !current.given;
  $('keep').checked = current.keep;
  $('notes').replaceChildren(...current.notes.map(note => {
    const row = document.createElement('li');
    row.textContent = `Note: ${note}.`;
    return row;
  }));
  if (current.film) {
    $('time').max = current.film.duration;
    $('time').value = current.film.time;
    showTime();
  }
  showEdit();
}

const showTime = () => { $('time-value').textContent = `${Number($('time').value).toFixed(1)} s`; };

const showCommand = trying(async () => {
  if (current.film) $('command').textContent = await server.command(current.id);
});

async function drawVersions() {
  const item = current;
  const grey = await server.preview(item.id, 190);
  for (const [number, version] of settings.versions.entries()) {
    const base = await baseFor(item, version.rarity);
    if (item !== current) return;
    versions.draw(number, grey, corrected(base, {...version, warmth: 0, tint: 0}), item.fraction);
  }
}

const chooseVersion = trying(async ({saturation, rarity}) => {
  await baseOf(current, rarity);
  change({saturation, rarity});
});

// Saving.

const saved = (sentence, work) => trying(async () => {
  await sending;
  busy(sentence);
  try { await work(); } finally { busy(); }
});
const save = saved('Saving…', () => saving.save(current.id));
const saveAll = saved('Saving all…', () =>
  saving.saveAll(photographs().filter(item => !item.film).map(item => item.id)));

// What the person does.

picture.onClick(addHint);
crosshair.onChoose(addHint);
files.handle(() => settings.suffixes, addFiles);
hints.handle({
  select: selectHint,
  move: (number, place) => { selected = number; change({hints: edited(number, place)}, `move ${number}`); },
  settle: () => { settle(); fetchLikely(); },
  remove: removeHint,
});
const changeHint = name => (value, rests) => {
  const before = current.edits.now.hints[selected][name];
  if (value !== before) change({hints: edited(selected, {[name]: value})}, rests ? null : name);
  if (rests) settle();
};
chooser.onChoose(changeHint('color'));
chooser.onReach(changeHint('reach'));
strip.handle({open: trying(open), remove: removeItem});

for (const name of SLIDERS) {
  $(name).addEventListener('input', () => change({[name]: Number($(name).value)}, name));
  $(name).addEventListener('change', settle);
}
$('reset').addEventListener('click', () => {
  const {hints: _, ...sliders} = neutral();
  change(sliders);
});
$('eyedropper').addEventListener('click', () =>
  setEyedropper($('eyedropper').getAttribute('aria-pressed') !== 'true'));
$('remove').addEventListener('click', () => removeHint(selected));
$('undo').addEventListener('click', () => undo(false));
$('redo').addEventListener('click', () => undo(true));
async function undo(forwards) {
  if (!current) return;
  if (forwards) current.edits.redo(); else current.edits.undo();
  showEdit();
  await refresh();
  fetchLikely();
}
$('fit').addEventListener('click', () => picture.setZoom(false));
$('full').addEventListener('click', () => picture.setZoom(true, current.edits.now.hints[selected]));
$('compare').addEventListener('change', () => { if (current) current.split = picture.split(); });
$('save').addEventListener('click', save);
$('save-all').addEventListener('click', saveAll);
$('save-hints').addEventListener('click', () => saving.saveHints(current.name, current.edits.now));
$('keep').addEventListener('change', trying(async () => {
  try {
    await sending;
    await server.keep(current.id, $('keep').checked);
    current.keep = $('keep').checked;
  } catch (error) {
    $('keep').checked = false;
    throw error;
  }
}));
$('time').addEventListener('input', showTime);
$('time').addEventListener('change', trying(async () => {
  const item = current, fresh = await server.frameAt(item.id, Number($('time').value));
  Object.assign(item, fresh, {edits: item.edits, bases: new Map(), base: null});
  await open(item.id);
}));
$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText($('command').textContent);
    say('Copied.');
  } catch {
    getSelection().selectAllChildren($('command'));
  }
});

document.addEventListener('keydown', event => {
  if (event.key === 'Escape') setEyedropper(false);
  if (!(event.ctrlKey || event.metaKey) || !current) return;
  const key = event.key.toLowerCase();
  if (key === 'z' || key === 'y') {
    event.preventDefault();
    undo(key === 'y' || event.shiftKey);
  } else if (key === 's') {
    event.preventDefault();
    if (!current.film) save();
  }
});

let resized = 0;
addEventListener('resize', () => {
  clearTimeout(resized);
  resized = setTimeout(trying(async () => {
    if (!current || picture.sideThatFits(current) <= side) return;
    const item = current, grey = await fetchPreview(item);
    if (item !== current) return;
    picture.show(item, grey, box => trying(server.detail)(item.id, box));
    await refresh();
  }), 300);
});

trying(async () => {
  busy('Getting ready…');
  settings = await server.state();
  versions.build(settings.versions, chooseVersion);
  $('bolder-label').hidden = settings.rarity === null;
  for (const item of settings.items) await take(item);
  for (const {number, name} of settings.waiting) enqueue(name, () => server.addGiven(number));
  const first = photographs()[0] ?? (queue.length ? null : example);
  if (first) await open(first.id);
  await work();
  busy();
  document.documentElement.dataset.ready = '1';
})();
