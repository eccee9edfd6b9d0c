// The library view: search, the grid, and decisions about tags.

import * as address from "./address.js";
import { getJson } from "./api.js";
import { combobox } from "./combobox.js";
import * as decisions from "./decisions.js";
import * as details from "./details.js";
import { button, byId, counted, element } from "./dom.js";
import { Grid } from "./grid.js";
import { Panel } from "./panel.js";
import { showPreview } from "./preview.js";
import { writeSidecars } from "./write.js";

const ORDERS = [["", "by folder and name"], ["newest", "newest first"], ["unsure", "unsure tags first"]];
const KEYS = { y: () => panel.judge("accepted"), n: () => panel.judge("rejected"), j: () => panel.move(1), k: () => panel.move(-1) };
const ACTIONS = [["Similar photos", "s", similar], ["Write sidecars", "w", write], ["Undo", "u", undo]];

let grid, panel, status, unsaved;
const fields = {}; // elements of the search form by name
let asked = null; // the last search
let search = 0;
let isLarge = false; // whether a preview is shown or loading
let dialog = null;

// --- elements of the view

function build() {
  fields.text = element("input", { type: "search" });
  fields.tag = element("input", { type: "text", spellcheck: false });
  fields.exclude = element("input", { type: "text", spellcheck: false });
  fields.after = element("input", { type: "date" });
  fields.before = element("input", { type: "date" });
  fields.order = element("select", {}, ...ORDERS.map(([value, label]) => element("option", { value }, label)));
  for (const [name, field] of Object.entries(fields)) field.id = `library-${name}`;
  fields.text.autocomplete = "off";
  const labelled = (label, name, field = fields[name]) =>
    element("div", { class: "field" }, element("label", { htmlFor: `library-${name}` }, label), field);
  const line = element("span", { class: "line" }, fields.text, element("button", {}, "Find"), button("Show all", clear));
  const wide = labelled("Search", "text", line);
  wide.classList.add("wide");
  const form = element("form", { class: "search", role: "search" },
    wide,
    labelled("With tags", "tag", combobox(fields.tag, { several: true })),
    labelled("Without tags", "exclude", combobox(fields.exclude, { several: true })),
    labelled("From", "after"), labelled("Before", "before"), labelled("Order", "order"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look({ ...typed(), like: "" });
  });
  fields.text.addEventListener("input", orderable);
  fields.order.addEventListener("change", () => look({ ...typed(), like: "" }));
  status = element("p", { id: "library-status", role: "status" });
  unsaved = element("p", { id: "library-unsaved", class: "error", hidden: true });
  grid = new Grid({ moved, opened: (id) => open(id), pressed, isMarked: (id) => decisions.unsavedTags(id).size > 0 });
  panel = new Panel({ say, actions: ACTIONS, pressed, unsavedTags: decisions.unsavedTags });
  byId("library-view").replaceChildren(
    element("h2", { id: "library-title" }, "Library"),
    element("p", { id: "library-summary", class: "quiet" }),
    form, status, unsaved,
    element("div", { class: "split" }, grid.box, panel.box),
    element("p", { class: "quiet keys" },
      "In the grid: arrow keys move, Space and Shift select, Ctrl+A selects all, Enter opens a preview."),
  );
}

export async function start() {
  build();
  decisions.start(tell);
  details.watch((photos) => {
    if (photos.some((photo) => photo.id === grid.photo)) moved();
  });
  await show();
  await grid.seen(); // the summary is slow: thumbnails come first
  await summary();
}

async function summary() {
  const { photos, folders } = await getJson("/v1/library");
  byId("library-summary").textContent = `${counted(photos.done ?? 0)} in ${counted(folders.length, "folder")}`;
}

// --- search, and the address

function typed() {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value.trim()]));
}

function place() {
  return { view: "library", ...asked, photo: grid.current ? String(grid.photo) : "", large: isLarge ? "1" : "" };
}

// Shows the state in the URL, at the start and after the user went back or forward.
export async function show() {
  const given = address.read();
  for (const [name, field] of Object.entries(fields)) field.value = given[name];
  if (fields.order.selectedIndex < 0) fields.order.value = "";
  const wanted = { ...typed(), like: given.like }; // as accepted by the fields
  if (JSON.stringify(wanted) !== JSON.stringify(asked)) await find(wanted);
  const there = grid.ids.indexOf(Number(given.photo));
  if (given.photo && there >= 0 && there !== grid.current) grid.select(there, { focus: false });
  address.forget();
  if (!given.large) close();
  else if (!isLarge && grid.ids.length) await open(grid.photo);
}

function look(wanted) {
  address.push({ view: "library", ...wanted });
  return find(wanted);
}

// Results of a text search are ordered by score.
function orderable() {
  fields.order.disabled = Boolean(fields.text.value.trim());
}

function clear() {
  for (const field of Object.values(fields)) field.value = "";
  return look({ ...typed(), like: "" });
}

async function find(wanted) {
  const mine = ++search;
  asked = wanted;
  const query = new URLSearchParams();
  for (const name of ["text", "like", "after", "before", "order"]) if (wanted[name]) query.append(name, wanted[name]);
  for (const name of ["tag", "exclude"]) {
    for (const tag of wanted[name].split(",")) if (tag.trim()) query.append(name, tag.trim());
  }
  status.textContent = "Searching …";
  const found = await getJson(`/v1/search?${query}`).catch((error) => ({ ids: [], error: error.message }));
  if (mine !== search) return;
  orderable();
  grid.fill(found.ids, found.scores ?? null);
  if (found.ids.length) grid.select(0, { focus: false });
  else panel.clear();
  const what = wanted.like ? `${counted(found.ids.length)} similar to the selected one` : counted(found.ids.length);
  status.textContent = found.error ?? (found.fits || !found.total ? what : "No photo fits. These are the nearest ones.");
}

function similar() {
  if (!grid.ids.length) return;
  fields.text.value = "";
  look({ ...typed(), like: String(grid.photo) });
}

// --- the current photo

function moved() {
  address.replace(place());
  const photo = details.known(grid.photo);
  const isLoading = !photo && grid.ids.length > 0;
  if (photo) panel.show(photo, grid.selected.size);
  else panel.clear({ isLoading }); // decisions must apply to the photo that is shown
  if (isLoading) details.load([grid.photo]).catch((error) => tell(error.message));
}

async function open(id) {
  isLarge = true;
  address.push(place(), { large: true });
  try {
    dialog = await showPreview(id, details.known(id), closed);
  } catch (error) {
    leave();
    tell(error.message);
  }
  if (!isLarge) close(); // the user went back while it was loading
}

function closed() {
  dialog = null;
  if (isLarge) leave(); // closed by the user, not by navigation
  grid.focus();
}

function close() {
  isLarge = false;
  dialog?.close();
}

function leave() {
  isLarge = false;
  if (history.state?.large) history.back();
  else address.replace(place());
}

// --- actions of keys and buttons

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const action = KEYS[event.key] ?? ACTIONS.find(([, key]) => key === event.key)?.[2];
  if (action) action();
  else if (event.key === "t") panel.add.focus();
  else return false;
  return true;
}

function say(tag, kind) {
  if (!grid.ids.length) return;
  if (kind === "added") grid.focus();
  decisions.decide(grid.chosen, tag, kind);
}

function write() {
  if (grid.ids.length) writeSidecars(grid.chosen, () => grid.focus());
}

function undo() {
  decisions.undo();
}

function tell(message) {
  status.textContent = message;
  const count = decisions.unsaved();
  unsaved.hidden = !count;
  unsaved.replaceChildren(`${counted(count, "correction")} not saved. `, button("Save again", decisions.send));
  grid.rename();
  const photo = details.known(grid.photo);
  if (photo) panel.show(photo, grid.selected.size);
}
