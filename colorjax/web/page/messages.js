// What the page says to the person: sentences, and what it is busy with.

import {Refused} from './server.js';

const $ = id => document.getElementById(id);

/** Says a sentence, for some seconds or until it is closed. */
export function say(sentence, lasting = false) {
  const box = document.createElement('div'), text = document.createElement('p');
  const close = document.createElement('button');
  text.textContent = sentence;
  close.textContent = 'Close';
  close.addEventListener('click', () => box.remove());
  box.append(text, close);
  for (const other of [...$('messages').children]) {
    if (other.firstChild.textContent === sentence) other.remove();
  }
  $('messages').append(box);
  if (!lasting) setTimeout(() => box.remove(), 8000);
}

/** Work that says what the server refuses. */
export const trying = work => async (...args) => {
  try {
    return await work(...args);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message, true);
  }
};

/** Shows what takes its time; without a sentence, that it is done. */
export function busy(sentence = '') {
  $('busy').textContent = sentence;
  $('busy').hidden = !sentence;
}
