// Files that are chosen by a button, or dropped with the folders that they lie in.

const $ = id => document.getElementById(id);
let suffixes = () => [], take = () => {};

/** Calls `handler` with files that come; of a folder with those of which `known` has the suffix. */
export const handle = (known, handler) => { [suffixes, take] = [known, handler]; };

// Of a folder only what may be a photograph; a file that is dropped by itself is always tried.
const isPicture = file => !file.name.startsWith('.')
  && suffixes().some(suffix => file.name.toLowerCase().endsWith(suffix));

for (const [button, input] of [['add', 'files'], ['invite', 'files'], ['add-folder', 'folder']]) {
  $(button).addEventListener('click', () => $(input).click());
}
for (const input of ['files', 'folder']) {
  $(input).addEventListener('change', () => {
    const files = [...$(input).files];
    $(input).value = '';
    take(input === 'folder' ? files.filter(isPicture) : files);
  });
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((found, failed) => entry.file(found, failed));
    return isPicture(file) ? [file] : [];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // it gives a hundred at a time
    const some = await new Promise((read, failed) => reader.readEntries(read, failed));
    if (!some.length) break;
    for (const child of some) found.push(...await filesOf(child));
  }
  return found.sort((one, other) => one.name.localeCompare(other.name));
}

addEventListener('dragover', event => {
  event.preventDefault();
  $('drop').hidden = ![...event.dataTransfer.types].includes('Files');
});
addEventListener('dragleave', event => { if (!event.relatedTarget) $('drop').hidden = true; });
addEventListener('drop', async event => {
  event.preventDefault();
  $('drop').hidden = true;
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.());
  const files = [...event.dataTransfer.files];
  const all = [];
  for (const [number, file] of files.entries()) {
    if (entries[number]?.isDirectory) all.push(...await filesOf(entries[number]));
    else all.push(file);
  }
  take(all);
});
