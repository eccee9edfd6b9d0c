// A virtual grid: only the rows in view are elements, and only one cell is in the tab order (roving tabindex).

import { request } from "./api.js";
import * as details from "./details.js";
import { debounced, element } from "./dom.js";

const CELL = 180; // preferred size of a cell in pixels, gaps included
const SPARE = 2; // rows above and below the view
const REST = 60; // milliseconds without scrolling before everything is loaded: scrolling passes thousands of rows
const LONG = 200; // milliseconds between scroll events after which the next one is a new movement
const PICTURES = 500; // cached thumbnails of servers with a key

export class Grid {
  ids = [];
  scores = null;
  current = 0; // index of the photo that has the focus
  selected = new Set(); // ids
  #columns = 1;
  #cell = CELL;
  #width = 0; // of the box at the last layout
  #anchor = 0; // where a selection with Shift began
  #isNew = true; // whether to load the next rows in view at once

  // `moved` is called when the current photo or the selection changes, `opened` with the id of a photo to preview,
  // `pressed` with keys that the grid does not handle; it returns whether it handled the key.
  constructor({ moved, opened, pressed, isMarked }) {
    Object.assign(this, { moved, opened, pressed, isMarked });
    this.sheet = element("div", { class: "sheet", role: "presentation" });
    this.box = element("div", {
      class: "grid", id: "library-grid", role: "grid", "aria-label": "Photos", "aria-multiselectable": "true",
    }, this.sheet);
    let isWaiting = false;
    let last = 0;
    this.box.addEventListener("scroll", ({ timeStamp }) => {
      if (timeStamp - last > LONG) this.#isNew = true; // a jump, or the start of a movement
      last = timeStamp;
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        this.#show();
      });
    }, { passive: true });
    this.box.addEventListener("keydown", (event) => this.#keys(event));
    this.rest = debounced(() => this.#rested(), REST);
    new ResizeObserver(debounced(() => this.#resized(), 50)).observe(this.box);
    details.watch(() => this.rename());
  }

  get photo() {
    return this.ids[this.current];
  }

  get chosen() {
    return this.selected.size ? [...this.selected] : this.ids.slice(this.current, this.current + 1);
  }

  fill(ids, scores) {
    Object.assign(this, { ids, scores, current: 0 });
    this.#anchor = 0;
    this.selected.clear();
    this.box.scrollTop = 0;
    this.layout();
  }

  // Keeps rows and pictures if the width is the same; the observer also reports the initial size.
  #resized() {
    if (this.box.clientWidth === this.#width) this.#show();
    else this.layout();
  }

  layout() {
    this.#width = this.box.clientWidth;
    this.#columns = Math.max(1, Math.round(this.#width / CELL));
    this.#cell = this.#width ? Math.floor(this.#width / this.#columns) : CELL; // 0: hidden
    this.sheet.style.setProperty("--cell", `${this.#cell}px`);
    this.sheet.style.height = `${this.#rows * this.#cell}px`;
    this.box.setAttribute("aria-rowcount", String(this.#rows));
    this.box.setAttribute("aria-colcount", String(this.#columns));
    const hadFocus = this.sheet.contains(document.activeElement);
    for (const row of [...this.sheet.children]) drop(row);
    this.#isNew = true;
    this.#show();
    if (hadFocus) this.focus();
  }

  get #rows() {
    return Math.ceil(this.ids.length / this.#columns);
  }

  // The row of the current photo is always kept: Tab and arrow keys continue from there.
  #show() {
    const { scrollTop, clientHeight } = this.box;
    const first = Math.max(0, Math.floor(scrollTop / this.#cell) - SPARE);
    const last = Math.min(this.#rows, Math.ceil((scrollTop + clientHeight) / this.#cell) + SPARE);
    const wanted = new Set();
    if (this.ids.length) wanted.add(Math.floor(this.current / this.#columns));
    for (let row = first; row < last; row += 1) wanted.add(row);
    for (const row of [...this.sheet.children]) {
      if (!wanted.delete(Number(row.dataset.row))) drop(row);
    }
    for (const number of wanted) {
      const later = [...this.sheet.children].find((row) => Number(row.dataset.row) > number);
      this.sheet.insertBefore(this.#rowOf(number), later ?? null);
    }
    if (this.#isNew) this.#askInView();
    this.#isNew = false;
    this.rest();
  }

  #rested() {
    this.#askInView();
    this.#ask(-Infinity, Infinity);
    const cells = [...this.sheet.querySelectorAll(".cell")];
    details.load(cells.map((cell) => this.ids[Number(cell.dataset.place)])).catch(() => {}); // errors are shown when a photo becomes current
  }

  #askInView() {
    const { scrollTop, clientHeight } = this.box;
    this.#ask(scrollTop / this.#cell, (scrollTop + clientHeight) / this.#cell);
  }

  // Loads the thumbnails of rows between `top` and `bottom`.
  #ask(top, bottom) {
    for (const row of this.sheet.children) {
      const number = Number(row.dataset.row);
      if (number + 1 <= top || number >= bottom) continue;
      for (const image of row.querySelectorAll("img")) {
        if (!waits.has(image)) this.#fetch(image, image.parentElement);
      }
    }
  }

  // Resolves when the requested thumbnails are loaded.
  async seen() {
    await Promise.allSettled([...this.sheet.querySelectorAll("img[src]")].map((image) => image.decode()));
  }

  #fetch(image, cell) {
    const stop = new AbortController();
    waits.set(image, stop);
    thumbnail(this.ids[Number(cell.dataset.place)], stop.signal).then((url) => {
      if (!stop.signal.aborted) image.src = url;
    }).catch(() => cell.classList.add("broken"));
  }

  #rowOf(number) {
    const row = element("div", { role: "row", class: "row", "aria-rowindex": String(number + 1) });
    row.dataset.row = String(number);
    row.style.top = `${number * this.#cell}px`;
    this.ids.slice(number * this.#columns, (number + 1) * this.#columns).forEach((id, column) => {
      row.append(this.#cellOf(id, number * this.#columns + column, column));
    });
    return row;
  }

  #cellOf(id, place, column) {
    const cell = element("div", { role: "gridcell", class: "cell", "aria-colindex": String(column + 1) });
    cell.dataset.place = String(place);
    const image = element("img", { alt: "", decoding: "async" });
    image.addEventListener("error", () => cell.classList.add("broken"));
    cell.append(image);
    if (this.scores) cell.append(element("span", { class: "score" }, this.scores[place].toFixed(2)));
    this.#state(cell, id, place);
    cell.addEventListener("click", (event) => {
      this.select(place, { extend: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
    });
    cell.addEventListener("dblclick", () => this.opened(id));
    return cell;
  }

  #state(cell, id, place) {
    const photo = details.known(id);
    const tags = photo?.tags.filter((tag) => tag.decision !== "rejected").slice(0, 4).map((tag) => tag.name);
    const isMarked = this.isMarked(id);
    const parts = photo ? [photo.name, tags.join(", "), isMarked ? "not saved" : ""] : ["Photo"];
    cell.setAttribute("aria-label", parts.filter(Boolean).join(": "));
    cell.title = photo?.name ?? "";
    cell.tabIndex = place === this.current ? 0 : -1;
    cell.setAttribute("aria-selected", String(this.selected.has(id)));
    cell.classList.toggle("current", place === this.current);
    cell.classList.toggle("unsaved", isMarked);
  }

  rename() {
    for (const cell of this.sheet.querySelectorAll(".cell")) {
      const place = Number(cell.dataset.place);
      this.#state(cell, this.ids[place], place);
    }
  }

  focus() {
    this.sheet.querySelector(`[data-place="${this.current}"]`)?.focus({ preventScroll: true });
  }

  select(place, { extend = false, toggle = false, focus = true } = {}) {
    this.current = Math.max(0, Math.min(place, this.ids.length - 1));
    if (!extend && !toggle) this.selected.clear();
    if (!extend) this.#anchor = this.current;
    if (toggle && !this.selected.delete(this.photo)) this.selected.add(this.photo);
    if (extend) {
      const [low, high] = [this.#anchor, this.current].sort((one, other) => one - other);
      this.selected = new Set(this.ids.slice(low, high + 1));
    }
    this.#reveal();
    this.rename();
    if (focus) this.focus();
    this.moved();
  }

  selectAll() {
    this.selected = new Set(this.ids);
    this.rename();
    this.moved();
  }

  #reveal() {
    const top = Math.floor(this.current / this.#columns) * this.#cell;
    const most = top + this.#cell - this.box.clientHeight;
    this.box.scrollTop = Math.max(most, Math.min(top, this.box.scrollTop));
    this.#show();
  }

  #keys(event) {
    const screen = this.#columns * Math.max(1, Math.floor(this.box.clientHeight / this.#cell));
    const moves = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns, ArrowDown: this.#columns,
      Home: -this.current, End: this.ids.length, PageUp: -screen, PageDown: screen,
    };
    if (!this.ids.length) return;
    if (event.key in moves && !event.altKey) this.select(this.current + moves[event.key], { extend: event.shiftKey });
    else if (event.key === " ") this.select(this.current, { toggle: true });
    else if (event.key === "Enter") this.opened(this.photo);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.selectAll();
    else if (!this.pressed(event)) return;
    event.preventDefault();
  }
}

const waits = new WeakMap(); // image element -> AbortController of its request

// Cancels the requests of images that left the view, so that those in view load first.
function drop(row) {
  for (const image of row.querySelectorAll("img")) {
    waits.get(image)?.abort();
    image.removeAttribute("src");
  }
  row.remove();
}

const pictures = new Map(); // id -> object URL, for servers with a key

async function thumbnail(id, signal) {
  const path = `/v1/photos/${id}/thumbnail`;
  if (!sessionStorage.getItem("anytag-key")) return path;
  if (!pictures.has(id)) {
    const url = URL.createObjectURL(await (await request(path, { signal })).blob());
    if (pictures.size >= PICTURES) {
      const [oldest, old] = pictures.entries().next().value;
      URL.revokeObjectURL(old);
      pictures.delete(oldest);
    }
    pictures.set(id, url);
  }
  return pictures.get(id);
}
