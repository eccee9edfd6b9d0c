// Starts the page: shows the model's name and the view that the URL names.

import * as address from "./address.js";
import { getJson } from "./api.js";
import { byId } from "./dom.js";
import * as library from "./library.js";
import * as tag from "./tag.js";

let hasLibrary = false;
let isOpen = false;

// Listens at once: what is chosen, dropped or clicked before the server has answered is not lost.
async function start() {
  tag.start();
  window.addEventListener("popstate", show);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash holds the state of the view
    byId("main").focus();
  });
  const { models: [model] } = await getJson("/v1/models");
  byId("model").textContent = `${model.name} ${model.version}, ${model.tags.toLocaleString()} tags`;
  if (model.captions) tag.offerCaptions();
  hasLibrary = model.library;
  byId("views").hidden = !hasLibrary;
  show();
}

function show() {
  address.forget(); // a pending change belongs to the previous history entry
  const { view } = address.read();
  const isLibrary = hasLibrary && view !== "tag";
  byId("tag-view").hidden = isLibrary;
  byId("library-view").hidden = !isLibrary;
  byId("tag-link").setAttribute("aria-current", isLibrary ? "false" : "page");
  byId("library-link").setAttribute("aria-current", isLibrary ? "page" : "false");
  if (!isLibrary) return;
  (isOpen ? library.show() : library.start()).catch(report);
  isOpen = true;
}

function report(error) {
  byId("status").textContent = error.message;
}

start().catch(report);
