// The user's decisions about tags, sent to the server in order. What it has not confirmed stays in the list, is
// shown as not saved, and is sent again on request.

import { sendJson } from "./api.js";
import { keep } from "./details.js";
import { counted } from "./dom.js";

const PHOTOS = 10_000; // maximum per request

const waiting = []; // {path, body, said}; the first is being sent, or has failed
let isSending = false;
let tell = () => {};

// `told` is called with a message after each change.
export function start(told) {
  tell = told;
  window.addEventListener("beforeunload", (event) => {
    if (waiting.length) event.preventDefault();
  });
}

export function decide(photos, tag, kind) {
  for (let start = 0; start < photos.length; start += PHOTOS) {
    const some = photos.slice(start, start + PHOTOS);
    const said = `${tag} ${kind} in ${counted(some.length)}. u undoes.`;
    waiting.push({ path: "/v1/decisions", body: { photos: some, tag, kind }, said });
  }
  return send();
}

// Undoes the last decision; one that was not saved is dropped.
export function undo() {
  if (waiting.length && !isSending) {
    waiting.pop();
    tell("Undone: it was not saved yet.");
    return Promise.resolve();
  }
  waiting.push({ path: "/v1/decisions/undo", body: {}, said: "Undone." });
  return send();
}

export async function send() {
  if (isSending) return;
  isSending = true;
  let message = "";
  try {
    while (waiting.length) {
      const { path, body, said } = waiting[0];
      const { photos } = await sendJson(path, body);
      waiting.shift();
      keep(photos);
      message = photos.length ? said : "There is nothing to undo.";
    }
  } catch (error) {
    if (error.status >= 400 && error.status < 500) waiting.shift(); // it would fail again
    message = `Not saved: ${error.message}`;
  }
  isSending = false;
  tell(message);
}

// The number of unsaved decisions; 0 while they are being sent.
export function unsaved() {
  return isSending ? 0 : waiting.length;
}

// Names of the tags of a photo with unsaved decisions.
export function unsavedTags(id) {
  const of = isSending ? [] : waiting.filter(({ body }) => body.photos?.includes(id));
  return new Set(of.map(({ body }) => body.tag));
}
