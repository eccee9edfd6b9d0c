// The panel beside the grid: the current photo, its tags, and the buttons to accept or reject them.

import { combobox } from "./combobox.js";
import { button, counted, element } from "./dom.js";

const LABELS = { accepted: "accepted", rejected: "rejected", added: "added by you" };

export class Panel {
  #photo = null;
  #names = []; // names of tags in the order shown, which decisions do not change
  #marked = null; // name of the tag that keys apply to

  // `say` is called with a tag and the kind of a decision, `actions` are [name, key, function], `unsavedTags` maps
  // the id of a photo to the set of its tags with unsaved decisions.
  constructor({ say, actions, pressed, unsavedTags }) {
    Object.assign(this, { say, unsavedTags });
    this.title = element("h3", {});
    this.path = element("p", { class: "quiet" });
    this.many = element("p", { class: "many", hidden: true });
    this.caption = element("p", {});
    this.error = element("p", { class: "error" });
    this.tags = element("ul", { class: "decisions", "aria-label": "Tags" });
    this.keywords = element("p", { class: "quiet" });
    this.add = element("input", { type: "text", id: "library-add", spellcheck: false });
    this.form = element("form", { class: "add", hidden: true },
      element("label", { htmlFor: "library-add" }, "Add a tag ", element("kbd", {}, "t")),
      combobox(this.add), element("button", {}, "Add"));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const tag = this.add.value.trim();
      this.add.value = "";
      if (tag) say(tag, "added");
    });
    const buttons = actions.map(([name, key, action]) => {
      const made = button(name, action);
      made.append(" ", element("kbd", { "aria-hidden": "true" }, key));
      made.setAttribute("aria-keyshortcuts", key);
      return made;
    });
    this.hint = element("p", { class: "quiet keys" }, element("kbd", {}, "y"), " accepts and ", element("kbd", {}, "n"),
      " rejects the marked tag, ", element("kbd", {}, "j"), " and ", element("kbd", {}, "k"), " move the mark.");
    this.parts = [
      element("div", { hidden: true }, this.title, this.path, this.many, this.caption, this.error, this.tags, this.hint),
      element("div", { hidden: true }, this.keywords, element("p", { class: "actions" }, ...buttons)),
    ];
    this.box = element("aside", { class: "panel", id: "library-panel", "aria-label": "The marked photo" },
      this.parts[0], this.form, this.parts[1]);
    this.box.addEventListener("keydown", (event) => {
      if (!event.target.closest("input") && pressed(event)) event.preventDefault();
    });
  }

  // While a photo is loading the field for a tag stays: what is typed after "t" must not become shortcuts.
  clear({ isLoading = false } = {}) {
    this.#photo = null;
    for (const part of this.parts) part.hidden = true;
    this.form.hidden = !isLoading;
  }

  show(photo, selected) {
    const names = photo.tags.map((tag) => tag.name);
    const had = photo.id === this.#photo?.id ? this.#names.filter((name) => names.includes(name)) : [];
    this.#names = [...names.filter((name) => !had.includes(name)), ...had];
    this.#photo = photo;
    if (!this.#names.includes(this.#marked)) this.#marked = this.#names[0] ?? null;
    for (const part of [...this.parts, this.form]) part.hidden = false;
    for (const [place, text] of [
      [this.title, photo.name], [this.path, photo.path], [this.caption, photo.caption], [this.error, photo.error],
      [this.keywords, photo.keywords.length ? `Keywords in the file: ${photo.keywords.join(", ")}` : ""],
      [this.many, selected > 1 ? `${counted(selected)} selected. Decisions apply to all of them.` : ""],
    ]) {
      place.textContent = text ?? "";
      place.hidden = !text;
    }
    this.hint.hidden = !names.length;
    this.#fill(new Map(photo.tags.map((tag) => [tag.name, tag])));
  }

  #fill(tags) {
    const focused = this.tags.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const unsaved = this.unsavedTags(this.#photo.id);
    const ghosts = [...unsaved].filter((name) => name && !tags.has(name)).map((name) => ({ name, score: null, decision: null }));
    const all = [...ghosts, ...this.#names.map((name) => tags.get(name))];
    this.tags.replaceChildren(...all.map((tag) => this.#rowOf(tag, unsaved.has(tag.name))));
    if (focused) this.tags.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    this.#show();
  }

  #rowOf(tag, isUnsaved) {
    const row = element("li", {},
      element("span", { class: "name" }, tag.name),
      isUnsaved ? element("strong", { class: "error" }, "not saved")
        : element("span", { class: "quiet" }, LABELS[tag.decision] ?? ""),
      element("span", { class: "score" }, tag.score === null ? "" : tag.score.toFixed(2)),
      button("✓", () => this.say(tag.name, "accepted"), `Accept ${tag.name}`),
      button("✗", () => this.say(tag.name, "rejected"), `Reject ${tag.name}`));
    row.dataset.name = tag.name;
    if (tag.decision) row.classList.add(tag.decision);
    row.addEventListener("click", () => {
      this.#marked = tag.name;
      this.#show();
    });
    return row;
  }

  // Decides about the marked tag and marks the next one at once, without waiting for the server.
  judge(kind) {
    if (this.#marked === null || !this.#photo) return;
    const tag = this.#marked;
    this.move(1);
    this.say(tag, kind);
  }

  move(step) {
    const place = this.#names.indexOf(this.#marked) + step;
    this.#marked = this.#names[Math.max(0, Math.min(place, this.#names.length - 1))] ?? null;
    this.#show();
  }

  #show() {
    for (const row of this.tags.children) {
      const isMarked = row.dataset.name === this.#marked;
      row.classList.toggle("marked", isMarked);
      row.setAttribute("aria-current", String(isMarked));
    }
  }
}
