// Starts the page: which model answers, and which view is asked for.

import { getJson } from "./api.js";
import { byId } from "./dom.js";
import * as library from "./library.js";
import * as tag from "./tag.js";

let hasLibrary = false;
let isOpen = false;

async function start() {
  const { models: [model] } = await getJson("/v1/models");
  byId("model").textContent = `${model.name} ${model.version}, ${model.tags.toLocaleString()} tags`;
  tag.start(model);
  hasLibrary = model.library;
  byId("views").hidden = !hasLibrary;
  window.addEventListener("hashchange", show);
  if (hasLibrary && !location.hash) location.replace("#library");
  else show();
}

function show() {
  const isLibrary = hasLibrary && location.hash === "#library";
  byId("tag-view").hidden = isLibrary;
  byId("library-view").hidden = !isLibrary;
  byId("tag-link").setAttribute("aria-current", isLibrary ? "false" : "page");
  byId("library-link").setAttribute("aria-current", isLibrary ? "page" : "false");
  if (isLibrary && !isOpen) {
    isOpen = true;
    library.start().catch(report);
  }
}

function report(error) {
  byId("status").textContent = error.message;
}

start().catch(report);
