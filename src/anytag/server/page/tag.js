// The view where photos are dropped: tags with scores, custom tags as they are typed, captions.

import { Queue, sendPhoto } from "./api.js";
import { byId, debounced, element } from "./dom.js";
import { draw } from "./overlay.js";

const SHOWN_AT_ONCE = 60;
const photos = [];
const queue = new Queue();
let stopping = new AbortController();
let shown = 0;
let canCaption = false;

export function start(model) {
  canCaption = model.captions;
  byId("captions").closest("label").hidden = !canCaption;
  byId("files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";
  });
  watchDrops();
  window.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  byId("custom").addEventListener("input", debounced(tagAgain, 150));
  byId("captions").addEventListener("change", tagAgain);
  byId("more").addEventListener("click", showMore);
  byId("cancel").addEventListener("click", cancel);
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
    if (!entries.length) add([...event.dataTransfer.files]);
    for (const entry of entries) for await (const file of filesOf(entry)) add([file]);
  });
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
  for (const file of files) {
    const photo = { file, answer: null, caption: null, error: null, card: null, url: null };
    photos.push(photo);
    queue.add(() => tag(photo));
  }
  showMore(files.length ? SHOWN_AT_ONCE - shown : 0);
  report();
}

// --- requests

function fields() {
  const custom = byId("custom").value.split(",").map((name) => name.trim()).filter(Boolean);
  return [...custom.map((name) => ["also", name]), ["heat", "true"]];
}

async function tag(photo) {
  const { signal } = stopping;
  if (signal.aborted) return;
  photo.error = null;
  try {
    const { photos: [answer] } = await sendPhoto("/v1/tag", photo.file, fields(), signal);
    photo.answer = answer;
    if (canCaption && byId("captions").checked) {
      const written = await sendPhoto("/v1/caption", photo.file, [], signal);
      photo.caption = written.photos[0].text;
    } else {
      photo.caption = null;
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    photo.error = error.message;
  }
  if (!signal.aborted) {
    fill(photo);
    report();
  }
}

function tagAgain() {
  stopping.abort();
  stopping = new AbortController();
  queue.clear();
  const inView = photos.slice(0, shown);
  for (const photo of [...inView, ...photos.slice(shown)]) queue.add(() => tag(photo));
  report();
}

function cancel() {
  stopping.abort();
  stopping = new AbortController();
  queue.clear();
  byId("cancel-line").hidden = true;
  byId("status").textContent = "Stopped.";
}

const report = debounced(() => {
  const done = photos.filter((photo) => photo.answer || photo.error).length;
  const failed = photos.filter((photo) => photo.error).length;
  const isBusy = queue.size > 0;
  byId("cancel-line").hidden = !isBusy || photos.length < 2;
  if (!photos.length) return;
  byId("status").textContent = isBusy && done < photos.length
    ? `${done} of ${photos.length} photos tagged`
    : `${photos.length} ${photos.length === 1 ? "photo" : "photos"} tagged${failed ? `, ${failed} failed` : ""}`;
}, 100);

// --- cards

function showMore(count = SHOWN_AT_ONCE) {
  const most = typeof count === "number" ? count : SHOWN_AT_ONCE;
  for (const photo of photos.slice(shown, shown + Math.max(0, most))) {
    photo.card = cardOf(photo);
    byId("photos").append(photo.card);
    shown += 1;
    fill(photo);
  }
  byId("more-line").hidden = shown >= photos.length;
}

function cardOf(photo) {
  photo.url = URL.createObjectURL(photo.file);
  const image = element("img", { src: photo.url, alt: "", decoding: "async" });
  const frame = element("div", { class: "frame" }, image);
  image.addEventListener("error", () => {
    image.replaceWith(element("p", { class: "quiet" }, "No preview: the browser cannot draw this format."));
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
    place.replaceChildren(element("p", { class: "error" }, photo.error.replace("<bytes>: ", "This file ")));
  } else if (photo.answer) {
    const { answer } = photo;
    const tags = [...answer.tags, ...(answer.below ?? [])].sort((one, other) => other.score - one.score);
    const caption = photo.caption ? element("p", {}, photo.caption) : null;
    const nothing = tags.length ? null : element("p", { class: "quiet" }, "No tag is sure enough.");
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    place.replaceChildren(...[caption, nothing, listOf(photo, tags)].filter(Boolean));
    if (focused) place.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  } else {
    place.replaceChildren(element("p", { class: "quiet" }, "Waiting …"));
  }
}

function listOf(photo, tags) {
  const canvas = photo.card.querySelector("canvas");
  const rows = tags.map((tag) => {
    const parents = tag.parents?.length ? ` ${tag.parents.join(", ")}` : "";
    const button = element(
      "button",
      { type: "button", class: tag.source === "vocabulary" ? "" : "custom" },
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
