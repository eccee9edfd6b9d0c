// A field with tag suggestions from the server, after the ARIA pattern "editable combobox with list autocomplete".

import { getJson } from "./api.js";
import { debounced, element } from "./dom.js";

const TYPED = 100; // milliseconds after the last key
const LETTERS = 100; // maximum that the server accepts

let made = 0;

// If `several`, the field holds tags separated by commas, and suggestions are for the last one.
export function combobox(input, { several = false } = {}) {
  const list = element("ul", { class: "suggestions", role: "listbox", hidden: true, "aria-label": "Suggested tags" });
  list.id = `suggestions-${made += 1}`;
  const attributes = {
    role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id,
  };
  for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
  input.autocomplete = "off";
  let active = -1;
  let asked = 0;

  function typed() {
    return several ? input.value.slice(input.value.lastIndexOf(",") + 1).trim() : input.value.trim();
  }

  async function ask() {
    const mine = ++asked;
    const query = new URLSearchParams({ text: typed().slice(0, LETTERS) });
    const { tags } = await getJson(`/v1/tags?${query}`).catch(() => ({ tags: [] })); // typing works without suggestions
    if (mine === asked && document.activeElement === input) open(tags);
  }

  function open(tags) {
    list.replaceChildren(...tags.map(optionOf));
    list.hidden = !tags.length;
    input.setAttribute("aria-expanded", String(tags.length > 0));
    activate(-1);
  }

  function close() {
    asked += 1;
    soon.cancel();
    open([]);
  }

  function optionOf(tag, place) {
    const option = element("li", { role: "option", id: `${list.id}-${place}`, "aria-selected": "false" },
      element("span", {}, tag.name), tag.by ? element("span", { class: "quiet" }, ` ${tag.by}`) : null);
    option.dataset.name = tag.name;
    option.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    option.addEventListener("click", () => pick(option));
    return option;
  }

  function activate(place) {
    active = place;
    [...list.children].forEach((option, number) => option.setAttribute("aria-selected", String(number === place)));
    const option = list.children[place];
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
    option?.scrollIntoView({ block: "nearest" });
  }

  function pick(option) {
    const before = several ? input.value.slice(0, input.value.lastIndexOf(",") + 1) : "";
    input.value = `${before}${before ? " " : ""}${option.dataset.name}`;
    close();
  }

  function step(by) {
    const count = list.children.length; // -1 is the field itself
    activate((active + 1 + by + count + 1) % (count + 1) - 1);
  }

  const soon = debounced(ask, TYPED);
  input.addEventListener("input", () => (typed() ? soon() : close()));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const isOpen = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (isOpen) step(event.key === "ArrowDown" ? 1 : -1);
      else ask();
    } else if (event.key === "Enter" && active >= 0) pick(list.children[active]);
    else if (event.key === "Escape" && isOpen) close();
    else {
      if (event.key === "Enter") close();
      return;
    }
    event.preventDefault();
  });
  return element("span", { class: "combobox" }, input, list);
}
