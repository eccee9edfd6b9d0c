// The view of a library: a grid that holds only what is in view, search, and what the user says of tags.

import { getJson, request, sendJson } from "./api.js";
import { byId, debounced, element } from "./dom.js";
import { showPreview } from "./preview.js";
import { writeSidecars } from "./write.js";

const CELL = 180; // pixels a cell, gaps included
const SPARE = 2; // rows above and below what is in view
const DETAILS_AT_ONCE = 200;
const KEYS = [["y", "accepted"], ["n", "rejected"]];

let view, grid, sheet, panel, status;
let ids = [];
let scores = null;
let columns = 1;
let current = 0; // place of the photo that has the focus
let anchor = 0; // where a selection with Shift began
const selected = new Set(); // ids
const details = new Map(); // id -> photo
const pictures = new Map(); // id -> object URL, for pictures that need the key
let search = 0;

export async function start() {
  view = byId("library-view");
  build();
  const { photos, folders } = await getJson("/v1/library");
  byId("library-summary").textContent =
    `${(photos.done ?? 0).toLocaleString()} photos in ${folders.length} ${folders.length === 1 ? "folder" : "folders"}`;
  await find();
}

function build() {
  const field = (label, input) => element("label", {}, element("span", {}, label), input);
  const text = element("input", { type: "search", id: "library-text", autocomplete: "off" });
  const tag = element("input", { type: "text", id: "library-tag", autocomplete: "off" });
  const exclude = element("input", { type: "text", id: "library-exclude", autocomplete: "off" });
  const after = element("input", { type: "date", id: "library-after" });
  const before = element("input", { type: "date", id: "library-before" });
  const order = element(
    "select",
    { id: "library-order" },
    ...[["path", "by path"], ["newest", "newest first"], ["unsure", "unsure first"]].map(([value, label]) =>
      element("option", { value }, label)),
  );
  const form = element(
    "form",
    { class: "search", role: "search" },
    field("Search", text), field("With the tags", tag), field("Without", exclude),
    field("From", after), field("Before", before), field("Order", order),
    element("button", {}, "Find"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
  order.addEventListener("change", () => find());
  status = element("p", { id: "library-status", role: "status" });
  sheet = element("div", { class: "sheet", role: "presentation" });
  grid = element("div", { class: "grid", id: "library-grid", role: "grid", "aria-label": "Photos", "aria-multiselectable": "true" }, sheet);
  grid.addEventListener("scroll", () => requestAnimationFrame(show), { passive: true });
  grid.addEventListener("keydown", keys);
  panel = element("aside", { class: "panel", id: "library-panel", "aria-label": "The selected photo" });
  view.replaceChildren(
    element("h2", { id: "library-title" }, "Library"),
    element("p", { id: "library-summary", class: "quiet" }),
    form,
    status,
    element("div", { class: "split" }, grid, panel),
    element("p", { class: "quiet" },
      "Keys: arrows move, Space selects, y accepts and n rejects the marked tag, j and k move the mark, t adds a tag, s finds similar photos, w writes sidecars, u undoes."),
  );
  new ResizeObserver(debounced(layout, 50)).observe(grid);
}

// --- what is shown

async function find(like = null) {
  const mine = ++search;
  const parameters = new URLSearchParams();
  const add = (name, value) => value && parameters.append(name, value);
  add("text", like === null ? byId("library-text").value.trim() : "");
  if (like !== null) add("like", String(like));
  for (const [name, id] of [["tag", "library-tag"], ["exclude", "library-exclude"]]) {
    for (const one of byId(id).value.split(",")) add(name, one.trim());
  }
  add("after", byId("library-after").value);
  add("before", byId("library-before").value);
  add("order", byId("library-order").value);
  status.textContent = "Searching …";
  let found;
  try {
    found = await getJson(`/v1/search?${parameters}`);
  } catch (error) {
    if (mine === search) status.textContent = error.message;
    return;
  }
  if (mine !== search) return;
  ({ ids, scores } = found);
  selected.clear();
  current = anchor = 0;
  status.textContent = found.fits || !found.total
    ? `${found.total.toLocaleString()} ${found.total === 1 ? "photo" : "photos"}`
    : "Nothing fits. These are the nearest.";
  grid.scrollTop = 0;
  grid.setAttribute("aria-rowcount", "0");
  layout();
  select(0, { focus: false });
}

function layout() {
  columns = Math.max(1, Math.floor(grid.clientWidth / CELL));
  const rows = Math.ceil(ids.length / columns);
  sheet.style.height = `${rows * CELL}px`;
  grid.setAttribute("aria-rowcount", String(rows));
  grid.setAttribute("aria-colcount", String(columns));
  sheet.replaceChildren();
  show();
}

function show() {
  const first = Math.max(0, Math.floor(grid.scrollTop / CELL) - SPARE);
  const last = Math.min(Math.ceil(ids.length / columns), Math.ceil((grid.scrollTop + grid.clientHeight) / CELL) + SPARE);
  const wanted = new Map();
  for (let row = first; row < last; row += 1) wanted.set(String(row), row);
  for (const row of [...sheet.children]) {
    if (!wanted.delete(row.dataset.row)) row.remove();
  }
  const missing = [];
  for (const number of wanted.values()) {
    const row = rowOf(number);
    const later = [...sheet.children].find((other) => Number(other.dataset.row) > number);
    sheet.insertBefore(row, later ?? null);
    missing.push(...ids.slice(number * columns, (number + 1) * columns).filter((id) => !details.has(id)));
  }
  if (missing.length) load(missing);
}

function rowOf(number) {
  const row = element("div", { role: "row", class: "row", "aria-rowindex": String(number + 1) });
  row.dataset.row = String(number);
  row.style.top = `${number * CELL}px`;
  ids.slice(number * columns, (number + 1) * columns).forEach((id, column) => {
    row.append(cellOf(id, number * columns + column, column));
  });
  return row;
}

function cellOf(id, place, column) {
  const cell = element("div", {
    role: "gridcell", class: "cell", tabIndex: place === current ? 0 : -1,
    "aria-colindex": String(column + 1), "aria-selected": String(selected.has(id)),
  });
  cell.dataset.place = String(place);
  name(cell, id);
  cell.append(element("img", { alt: "", decoding: "async", width: CELL - 12, height: CELL - 12 }));
  if (scores) cell.append(element("span", { class: "score" }, scores[place].toFixed(2)));
  thumbnail(id).then((url) => {
    if (cell.isConnected) cell.querySelector("img").src = url;
  }).catch(() => cell.classList.add("broken"));
  cell.addEventListener("click", (event) => select(place, { extend: event.shiftKey, toggle: event.ctrlKey || event.metaKey }));
  cell.addEventListener("dblclick", () => preview(id));
  return cell;
}

function name(cell, id) {
  const photo = details.get(id);
  const tags = photo?.tags.filter((tag) => tag.decision !== "rejected").slice(0, 4).map((tag) => tag.name);
  cell.setAttribute("aria-label", photo ? `${photo.name}${tags.length ? `: ${tags.join(", ")}` : ""}` : "Photo");
}

async function thumbnail(id) {
  if (!sessionStorage.getItem("anytag-key")) return `/v1/photos/${id}/thumbnail`;
  if (!pictures.has(id)) {
    if (pictures.size > 500) {
      const [oldest, url] = pictures.entries().next().value;
      URL.revokeObjectURL(url);
      pictures.delete(oldest);
    }
    pictures.set(id, URL.createObjectURL(await (await request(`/v1/photos/${id}/thumbnail`)).blob()));
  }
  return pictures.get(id);
}

async function load(wanted) {
  for (let start = 0; start < wanted.length; start += DETAILS_AT_ONCE) {
    const query = wanted.slice(start, start + DETAILS_AT_ONCE).map((id) => `id=${id}`).join("&");
    try {
      keep((await getJson(`/v1/photos?${query}`)).photos);
    } catch (error) {
      status.textContent = error.message;
      return;
    }
  }
}

function keep(photos) {
  if (details.size > 5000) details.clear();
  for (const photo of photos) details.set(photo.id, photo);
  for (const cell of sheet.querySelectorAll(".cell")) name(cell, ids[Number(cell.dataset.place)]);
  const id = ids[current];
  if (photos.some((photo) => photo.id === id)) fill(details.get(id));
}

// --- focus and selection

function select(place, { extend = false, toggle = false, focus = true } = {}) {
  if (!ids.length) {
    panel.replaceChildren();
    return;
  }
  current = Math.min(Math.max(place, 0), ids.length - 1);
  if (!extend && !toggle) selected.clear();
  if (!extend) anchor = current;
  if (toggle) {
    const id = ids[current];
    if (!selected.delete(id)) selected.add(id);
  } else if (extend) {
    const [low, high] = [Math.min(anchor, current), Math.max(anchor, current)];
    selected.clear();
    for (const id of ids.slice(low, high + 1)) selected.add(id);
  }
  const row = Math.floor(current / columns);
  if (focus) {
    if (row * CELL < grid.scrollTop) grid.scrollTop = row * CELL;
    const below = (row + 1) * CELL - grid.clientHeight;
    if (below > grid.scrollTop) grid.scrollTop = below;
    show();
  }
  for (const cell of sheet.querySelectorAll(".cell")) {
    const here = Number(cell.dataset.place);
    cell.tabIndex = here === current ? 0 : -1;
    cell.setAttribute("aria-selected", String(selected.has(ids[here])));
    if (focus && here === current) cell.focus({ preventScroll: true });
  }
  const photo = details.get(ids[current]);
  if (photo) fill(photo);
  else load([ids[current]]);
}

function keys(event) {
  if (event.target.closest("input")) return;
  const moves = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -current, End: ids.length,
    PageUp: -columns * Math.floor(grid.clientHeight / CELL), PageDown: columns * Math.floor(grid.clientHeight / CELL),
  };
  if (event.key in moves && !event.altKey) {
    select(current + moves[event.key], { extend: event.shiftKey });
  } else if (event.key === " ") {
    select(current, { toggle: true });
  } else if (event.key === "Enter") {
    preview(ids[current]);
  } else if (!act(event)) {
    return;
  }
  event.preventDefault();
}

// What one key does, in the grid and in the panel.
function act(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const kind = new Map(KEYS).get(event.key);
  if (kind) say(markedTag(), kind);
  else if (event.key === "j" || event.key === "k") mark(event.key === "j" ? 1 : -1);
  else if (event.key === "t") byId("library-add").focus();
  else if (event.key === "s") find(ids[current]);
  else if (event.key === "w") write();
  else if (event.key === "u") undo();
  else return false;
  return true;
}

// --- the panel

let marked = 0;

function fill(photo) {
  const rows = photo.tags.map((tag, number) => tagRow(tag, number));
  const add = element("input", { type: "text", id: "library-add", autocomplete: "off", list: "library-names" });
  const names = element("datalist", { id: "library-names" });
  add.addEventListener("input", debounced(() => suggest(names, add.value), 100));
  const form = element("form", { class: "add" },
    element("label", { htmlFor: "library-add" }, selected.size > 1 ? `Add a tag to ${selected.size} photos` : "Add a tag"), add,
    names, element("button", {}, "Add"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (add.value.trim()) say(add.value.trim(), "added");
    add.value = "";
    cellAt(current)?.focus();
  });
  const had = panel.contains(document.activeElement) ? document.activeElement.id : null;
  marked = Math.min(marked, Math.max(0, rows.length - 1));
  panel.replaceChildren(
    element("h3", {}, photo.name),
    element("p", { class: "quiet" }, photo.path),
    photo.caption ? element("p", {}, photo.caption) : "",
    photo.error ? element("p", { class: "error" }, photo.error) : "",
    element("ul", { class: "decisions", "aria-label": "Tags" }, ...rows),
    photo.keywords.length ? element("p", { class: "quiet" }, `Keywords in the file: ${photo.keywords.join(", ")}`) : "",
    form,
    element("p", {}, button("Similar photos", () => find(photo.id)), " ",
      button(selected.size > 1 ? `Write sidecars of ${selected.size} photos` : "Write sidecars", write), " ", button("Undo", undo)),
  );
  panel.onkeydown = (event) => {
    if (!event.target.closest("input") && act(event)) event.preventDefault();
  };
  if (had) byId(had)?.focus();
  showMark();
}

async function suggest(names, text) {
  const { tags } = await getJson(`/v1/tags?${new URLSearchParams({ text: text.slice(0, 100) })}`).catch(() => ({ tags: [] }));
  names.replaceChildren(...tags.map((value) => element("option", { value })));
}

function tagRow(tag, number) {
  const score = tag.score === null ? "" : tag.score.toFixed(2);
  const label = { accepted: "accepted", rejected: "rejected", added: "added by you" }[tag.decision] ?? "";
  const row = element("li", {},
    element("span", { class: "name" }, tag.name),
    element("span", { class: "quiet" }, label),
    element("span", { class: "score" }, score),
    button("✓", () => say(tag.name, "accepted"), `Accept ${tag.name}`),
    button("✗", () => say(tag.name, "rejected"), `Reject ${tag.name}`));
  row.dataset.name = tag.name;
  if (tag.decision === "rejected") row.classList.add("rejected");
  row.addEventListener("click", () => {
    marked = number;
    showMark();
  });
  return row;
}

function button(text, action, label = null) {
  const made = element("button", { type: "button", class: "plain" }, text);
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

function mark(step) {
  const count = panel.querySelectorAll(".decisions li").length;
  marked = Math.min(Math.max(marked + step, 0), Math.max(0, count - 1));
  showMark();
}

function showMark() {
  panel.querySelectorAll(".decisions li").forEach((row, number) => {
    row.classList.toggle("marked", number === marked);
    row.setAttribute("aria-current", String(number === marked));
  });
}

function markedTag() {
  return panel.querySelectorAll(".decisions li")[marked]?.dataset.name;
}

// --- decisions

async function say(tag, kind) {
  if (!tag || !ids.length) return;
  const photos = chosen();
  await change(() => sendJson("/v1/decisions", { photos, tag, kind }),
    `${tag} ${kind} in ${photos.length} ${photos.length === 1 ? "photo" : "photos"}. u undoes.`);
  if (kind !== "added") mark(1);
}

function chosen() {
  return selected.size ? [...selected] : [ids[current]];
}

function write() {
  if (ids.length) writeSidecars(chosen(), () => cellAt(current)?.focus());
}

function undo() {
  return change(() => sendJson("/v1/decisions/undo", {}), "Undone.");
}

// Only what the server has confirmed is shown; what fails says so.
async function change(send, message) {
  try {
    const { photos } = await send();
    keep(photos);
    status.textContent = photos.length ? message : "There is nothing to undo.";
  } catch (error) {
    status.textContent = `Not saved: ${error.message}`;
  }
}

function cellAt(place) {
  return sheet.querySelector(`[data-place="${place}"]`);
}

function preview(id) {
  showPreview(id, details.get(id), () => cellAt(current)?.focus()).catch((error) => {
    status.textContent = error.message;
  });
}
