// Starts the page: which model answers, and which view is asked for.

import { getJson } from "./api.js";
import { byId } from "./dom.js";
import * as tag from "./tag.js";

async function start() {
  const { models: [model] } = await getJson("/v1/models");
  byId("model").textContent = `${model.name} ${model.version}, ${model.tags.toLocaleString()} tags`;
  tag.start(model);
}

start().catch((error) => {
  byId("status").textContent = error.message;
});
