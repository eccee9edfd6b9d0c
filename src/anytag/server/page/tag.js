// The view for tagging dropped photos: tags with scores, custom tags while typing, captions.

import { Queue, sendPhoto } from "./api.js";
import { byId, counted, debounced, element, pauses } from "./dom.js";
import { draw } from "./overlay.js";

const SHOWN_AT_ONCE = 60;
const photos = [];
const queue = new Queue();
let stopping = new AbortController(); // of requests
let dropping = new AbortController(); // of reading dropped folders
let reporting = 0;
let isStopped = false;
let shown = 0; // number of cards
let wanted = SHOWN_AT_ONCE; // maximum number of cards
let isShowing = false;
let canCaption = false;

export function start() {
  byId("files").addEventListener("change", (event) => {
    addAll([...event.target.files]);
    event.target.value = "";
  });
  watchDrops();
  window.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  byId("custom").addEventListener("input", debounced(tagAgain, 100));
  byId("captions").addEventListener("change", tagAgain);
  byId("more").addEventListener("click", () => {
    wanted += SHOWN_AT_ONCE;
    showCards();
  });
  byId("cancel").addEventListener("click", () => (isStopped ? tagAgain() : stop()));
}

export function offerCaptions() {
  canCaption = true;
  byId("captions").closest("label").hidden = false;
}

// --- files

function watchDrops() {
  const zone = byId("drop");
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.length) await addAll([...event.dataTransfer.files]);
    else await addEntries(entries).catch((error) => (byId("status").textContent = `Some files could not be read: ${error.message}`));
  });
}

async function addEntries(entries) {
  const { signal } = dropping;
  for (const entry of entries) {
    for await (const file of filesOf(entry)) {
      if (signal.aborted) return;
      add([file]);
    }
  }
}

// Adds files, which may be thousands, without blocking the page.
async function addAll(files) {
  const { signal } = dropping;
  const pause = pauses();
  for (const file of files) {
    await pause();
    if (signal.aborted) return;
    add([file]);
  }
}

async function* filesOf(entry) {
  if (entry.isFile) {
    yield await new Promise((resolve, reject) => entry.file(resolve, reject));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) yield* filesOf(one);
  }
}

function add(files) {
  isStopped = false;
  for (const file of files) {
    const photo = { file, answer: null, custom: [], caption: null, error: null, isDone: false, card: null };
    photos.push(photo);
    queue.add(() => tag(photo));
  }
  showCards();
  report();
}

// --- requests

function customTags() {
  return byId("custom").value.split(",").map((name) => name.trim()).filter(Boolean);
}

// Only what is missing is requested: while custom tags are typed, only their scores are.
async function tag(photo) {
  const { signal } = stopping;
  if (signal.aborted) return;
  const [custom, wantsCaption] = [customTags(), canCaption && byId("captions").checked];
  const ask = async (path, fields) => (await sendPhoto(path, photo.file, fields, signal)).photos[0];
  try {
    photo.answer ??= await ask("/v1/tag", [["heat", "true"]]);
    if (wantsCaption) photo.caption ??= (await ask("/v1/caption", [])).text;
    const fields = [...custom.map((name) => ["tags", name]), ["heat", "true"]];
    photo.custom = custom.length ? (await ask("/v1/tag", fields)).tags : [];
    photo.error = null;
  } catch (error) {
    if (error.name === "AbortError") return;
    photo.error = error.message;
  }
  if (signal.aborted) return;
  photo.isDone = true;
  fill(photo);
  report();
}

function tagAgain() {
  stopping.abort();
  stopping = new AbortController();
  queue.clear();
  isStopped = false;
  for (const photo of photos) {
    photo.isDone = false;
    queue.add(() => tag(photo));
  }
  report();
}

function stop() {
  dropping.abort();
  dropping = new AbortController();
  stopping.abort();
  stopping = new AbortController();
  queue.clear();
  isStopped = true;
  tell();
  for (const photo of photos) if (!photo.isDone) fill(photo);
}

function report() {
  reporting ||= setTimeout(tell, 100);
}

function tell() {
  reporting = 0;
  const done = photos.filter((photo) => photo.isDone).length;
  const failed = photos.filter((photo) => photo.error).length;
  const isBusy = queue.size > 0;
  clearTimeout(reporting);
  byId("cancel-line").hidden = !(isBusy || isStopped) || photos.length < 2;
  byId("cancel").textContent = isStopped ? "Continue" : "Stop";
  if (!photos.length) return;
  byId("status").textContent = done < photos.length
    ? `${isStopped ? "Stopped: " : ""}${done.toLocaleString()} of ${counted(photos.length)} tagged`
    : `${counted(photos.length)} tagged${failed ? `, ${failed} failed` : ""}`;
}

// --- cards

async function showCards() {
  if (isShowing) return;
  isShowing = true;
  const pause = pauses();
  while (shown < Math.min(wanted, photos.length)) {
    const photo = photos[shown];
    photo.card = cardOf(photo);
    byId("photos").append(photo.card);
    shown += 1;
    fill(photo);
    await pause();
  }
  isShowing = false;
  byId("more-line").hidden = shown >= photos.length;
}

function cardOf(photo) {
  const url = URL.createObjectURL(photo.file);
  const image = element("img", { loading: "lazy", src: url, alt: "", decoding: "async" });
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  const frame = element("div", { class: "frame" }, image);
  image.addEventListener("error", () => {
    image.replaceWith(element("p", { class: "quiet" }, "No preview: the browser does not support this format."));
  });
  const canvas = element("canvas", { "aria-hidden": "true" });
  frame.append(canvas);
  const title = element("h3", {}, photo.file.name || "Pasted photo");
  return element("li", { class: "photo" }, frame, title, element("div", { class: "result" }));
}

function fill(photo) {
  if (!photo.card) return;
  const place = photo.card.querySelector(".result");
  if (photo.error) {
    place.replaceChildren(element("p", { class: "error" }, photo.error));
  } else if (photo.answer) {
    const custom = new Set(photo.custom.map((tag) => tag.id));
    const tags = [...photo.custom, ...photo.answer.tags.filter((tag) => !custom.has(tag.id))];
    tags.sort((one, other) => other.score - one.score);
    const caption = photo.caption && byId("captions").checked ? element("p", {}, photo.caption) : null;
    const nothing = tags.length ? null : element("p", { class: "quiet" }, "No tag is above its threshold.");
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    place.replaceChildren(...[caption, nothing, listOf(photo, tags)].filter(Boolean));
    if (focused) place.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  } else {
    place.replaceChildren(element("p", { class: "quiet" }, isStopped ? "Not tagged." : "Waiting …"));
  }
}

function listOf(photo, tags) {
  const canvas = photo.card.querySelector("canvas");
  const rows = tags.map((tag) => {
    const parents = tag.parents?.length ? ` ${tag.parents.join(", ")}` : "";
    const button = element(
      "button",
      { type: "button", class: photo.custom.includes(tag) ? "custom" : "" },
      element("span", { class: "name" }, tag.name, parents ? element("span", { class: "parents" }, parents) : null),
      element("span", { class: "score" }, tag.score.toFixed(2)),
    );
    button.dataset.id = tag.id;
    button.style.setProperty("--share", `${Math.round(tag.score * 100)}%`);
    for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => draw(canvas, photo.answer, tag));
    for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => draw(canvas, photo.answer, null));
    return element("li", {}, button);
  });
  return element("ul", { class: "tags", "aria-label": `Tags of ${photo.file.name || "the pasted photo"}` }, ...rows);
}
