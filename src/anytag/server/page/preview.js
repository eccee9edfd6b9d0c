// A preview of a photo of the library, as large as the window.

import { request } from "./api.js";
import { element } from "./dom.js";

// Opens the preview and returns its dialog; `done` is called when it closes.
export async function showPreview(id, photo, done) {
  const url = URL.createObjectURL(await (await request(`/v1/photos/${id}/preview`)).blob());
  const dialog = element("dialog", { class: "preview", "aria-label": photo?.name ?? "Photo" },
    element("img", { src: url, alt: photo?.caption ?? "" }),
    element("form", { method: "dialog" }, element("button", {}, "Close")));
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    URL.revokeObjectURL(url);
    dialog.remove();
    done();
  });
  dialog.showModal();
  return dialog;
}
