// The dialog that writes sidecars: it shows what would change, and writes it when the user confirms.

import { sendJson } from "./api.js";
import { counted, element } from "./dom.js";

const AT_ONCE = 20; // photos per request, for frequent progress and a quick stop
const SHOWN = 100; // maximum number of rows: a selection can be a whole library

export function writeSidecars(photos, done) {
  const dialog = element("dialog", { class: "write" });
  const status = element("p", { role: "status" });
  const list = element("ul", { class: "changes", "aria-label": "Changes", tabIndex: 0 });
  const write = element("button", { type: "button", hidden: true }, "Write");
  const close = element("button", { type: "button", class: "plain" }, "Cancel");
  const title = element("h2", { id: "write-title" }, "Write sidecars");
  dialog.setAttribute("aria-labelledby", "write-title");
  dialog.append(title, status, list, element("p", {}, write, " ", close));
  document.body.append(dialog);
  const stopping = new AbortController();
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    stopping.abort();
    dialog.remove();
    done();
  });
  dialog.showModal();

  async function run(ids, isDry) {
    list.replaceChildren();
    const changes = [];
    for (let start = 0; start < ids.length; start += AT_ONCE) {
      status.textContent = `${isDry ? "Checking" : "Writing"} ${counted(ids.length)}: ${start.toLocaleString()} done`;
      const body = { photos: ids.slice(start, start + AT_ONCE), dry_run: isDry };
      const answer = await sendJson("/v1/library/write", body, { signal: stopping.signal });
      changes.push(...answer.changes);
      const told = answer.changes.filter((one) => one.error || one.files.length).map(rowOf);
      list.append(...told.slice(0, Math.max(0, SHOWN - list.children.length)));
    }
    const failed = changes.filter((one) => one.error).length;
    const changed = changes.filter((one) => !one.error && one.files.length);
    const parts = [changed.length ? `${counted(changed.length)} ${isDry ? "would change" : "written"}` : "Nothing to write"];
    if (failed) parts.push(`${failed.toLocaleString()} failed`);
    const more = changed.length + failed - list.children.length;
    if (more > 0) parts.push(`${more.toLocaleString()} more are not shown`);
    status.textContent = `${parts.join(", ")}.`;
    return changed.map((one) => one.id);
  }

  async function ask(ids, isDry) {
    write.hidden = true;
    try {
      const changed = await run(ids, isDry);
      write.hidden = !isDry || !changed.length;
      write.onclick = () => ask(changed, false);
      if (!isDry) close.textContent = "Close";
      (write.hidden ? close : write).focus();
    } catch (error) {
      if (error.name === "AbortError") return;
      status.textContent = `${isDry ? "Nothing was written" : "Not all was written"}: ${error.message}`;
      close.focus();
    }
  }

  close.focus();
  return ask(photos, true);
}

function rowOf(change) {
  const words = [...change.added.map((word) => `+${word}`), ...change.removed.map((word) => `−${word}`)];
  const files = change.files.map((file) => file.split(/[/\\]/).pop());
  return element("li", {},
    element("strong", {}, change.name),
    change.error
      ? element("span", { class: "error" }, change.error.message)
      : element("span", {}, words.join(", ") || "same keywords, more fields"),
    files.length ? element("span", { class: "quiet" }, files.join(", ")) : null,
    change.note ? element("span", { class: "quiet" }, change.note) : null);
}
