// What a person asks of one photograph, with undo and redo. An edit is {hints, saturation, warmth,
// tint, rarity}; edits are never changed, only replaced.

export class Edits {
  #past = [];
  #future = [];
  #group = null;

  constructor(first) {
    this.now = first;
  }

  /** Replaces the edit; changes of one group in a row (a drag) are undone together. */
  change(changes, group = null) {
    if (group === null || group !== this.#group) this.#past.push(this.now);
    this.#group = group;
    this.#future = [];
    this.now = {...this.now, ...changes};
  }

  /** Ends a group: what comes next is undone by itself. */
  settle() {
    this.#group = null;
  }

  undo() {
    this.#group = null;
    if (!this.canUndo) return;
    this.#future.push(this.now);
    this.now = this.#past.pop();
  }

  redo() {
    this.#group = null;
    if (!this.canRedo) return;
    this.#past.push(this.now);
    this.now = this.#future.pop();
  }

  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }
}
