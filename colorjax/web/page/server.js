// Requests to the server that sent this page, and to no other.

/** What the server refused, in its own words. */
export class Refused extends Error {}

async function request(method, path, body) {
  let response;
  try {
    response = await fetch(path, {method, body});
  } catch {
    throw new Refused('The server has ended: start `colorjax web` again.');
  }
  if (!response.ok) {
    const text = await response.text();
    let sentence = text;
    try { sentence = JSON.parse(text).error; } catch { /* it was a plain sentence */ }
    throw new Refused(sentence || `The server answered ${response.status}.`);
  }
  return response;
}

const json = value => new Blob([JSON.stringify(value)], {type: 'application/json'});
const at = (id, what = '') => `api/photographs/${id}${what}`;
const plane = async (response, kind) => ({
  height: Number(response.headers.get('x-rows')),
  width: Number(response.headers.get('x-columns')),
  data: new kind(await response.arrayBuffer()),
});

export const state = async () => (await request('GET', 'api/state')).json();
export const add = async file =>
  (await request('PUT', `api/photographs?name=${encodeURIComponent(file.name)}`, file)).json();
export const addGiven = async number => (await request('POST', 'api/given', json({number}))).json();
export const remove = id => request('DELETE', at(id));

/** Grey values {data, width, height} of a photograph's lightness. */
export const preview = async (id, side) =>
  plane(await request('GET', at(id, `/preview?side=${side}`)), Uint8Array);
export const detail = async (id, {left, top, width, height}) => plane(
  await request('GET', at(id, `/detail?left=${left}&top=${top}&width=${width}&height=${height}`)),
  Uint8Array);

/** ab {data, width, height} under an edit; remembered, it is what will be saved. */
export const color = async (id, edit, remember) =>
  plane(await request('POST', at(id, `/color?remember=${remember ? 1 : 0}`), json(edit)), Float32Array);
export const suggest = async (id, x, y) =>
  (await request('POST', at(id, '/suggest'), json({x, y}))).json();
export const keep = (id, value) => request('POST', at(id, '/keep'), json({keep: value}));
export const readHints = async (id, file) => (await request('POST', at(id, '/hints'), file)).json();
export const frameAt = async (id, time) => (await request('POST', at(id, '/frame'), json({time}))).json();
export const command = async id => (await (await request('GET', at(id, '/command'))).json()).command;

/** Files as {name, blob}. */
async function file(response) {
  const name = decodeURIComponent(response.headers.get('x-name'));
  const notes = JSON.parse(decodeURIComponent(response.headers.get('x-notes') || '[]'));
  return {name, notes, blob: await response.blob()};
}
export const save = async (id, format) => file(await request('POST', at(id, '/save'), json({format})));
export const saveAll = async (ids, format) => file(await request('POST', 'api/zip', json({ids, format})));
