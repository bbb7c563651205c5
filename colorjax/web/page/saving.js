// Saving: a photograph, all of them into a folder or a ZIP, and hints.

import {busy, say} from './messages.js';
import * as server from './server.js';

const format = () => document.getElementById('format').value;

function download({name, blob, notes}) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  for (const note of notes) say(`${name}: ${note}.`);
}

/** Saves one photograph, as the browser saves files. */
export const save = async id => download(await server.save(id, format()));

/** Saves photographs into a folder, or into a ZIP where the browser opens none. */
export async function saveAll(ids) {
  let folder;
  try {
    folder = await window.showDirectoryPicker?.({mode: 'readwrite'});
  } catch (error) {
    if (error.name === 'AbortError') return; // the person closed the dialog
  }
  if (!folder) return download(await server.saveAll(ids, format()));
  for (const [number, id] of ids.entries()) {
    busy(`Saving ${number + 1} of ${ids.length}…`);
    const {name, blob, notes} = await server.save(id, format());
    const file = await folder.getFileHandle(await freeName(folder, name), {create: true});
    const stream = await file.createWritable();
    await stream.write(blob);
    await stream.close();
    for (const note of notes) say(`Note: ${note}.`);
  }
  say(`Saved ${ids.length} photographs into ${folder.name}.`);
}

// A name that no file of the folder has: nothing is overwritten.
async function freeName(folder, name) {
  const dot = name.lastIndexOf('.');
  for (let count = 1; ; count++) {
    const wanted = count === 1 ? name : `${name.slice(0, dot)}-${count}${name.slice(dot)}`;
    try {
      await folder.getFileHandle(wanted);
    } catch (error) {
      if (error.name === 'NotFoundError') return wanted;
      if (error.name !== 'TypeMismatchError') throw error;
    }
  }
}

/** Saves an edit as a file of hints, without the server: if that has ended, they are still here. */
export function saveHints(name, {hints: points, ...edit}) {
  const blob = new Blob([JSON.stringify({points, edit}, null, 1)], {type: 'application/json'});
  download({name: `${name}.hints.json`, blob, notes: []});
}
