// Requests to the server of the page. The key is stored for this tab only.

const KEY = "anytag-key";
const MOST_AT_ONCE = 4;

export class ApiError extends Error {
  constructor(status, type, message) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

let asking = null;

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    dialog.showModal();
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.getElementById("key").value);
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

// Header values are bytes: the key is sent as UTF-8.
function bytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

export async function request(path, options = {}) {
  for (;;) {
    const headers = new Headers(options.headers);
    const key = sessionStorage.getItem(KEY);
    if (key) headers.set("authorization", `Bearer ${bytes(key)}`);
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "network", "The server does not respond. Is it still running?");
    }
    if (response.status === 401) {
      await askForKey();
      continue;
    }
    if (response.status === 429) {
      await wait(1000 * Number(response.headers.get("retry-after") || 1), options.signal);
      continue;
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({ error: { type: "http", message: response.statusText } }));
    throw new ApiError(response.status, error.type, error.message);
  }
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

export function sendJson(path, body, options = {}) {
  const headers = { "content-type": "application/json" };
  return getJson(path, { method: "POST", body: JSON.stringify(body), headers, ...options });
}

export function sendPhoto(path, file, fields, signal) {
  const form = new FormData();
  form.append("files", file, file.name || "photo");
  for (const [name, value] of fields) form.append(name, value);
  return getJson(path, { method: "POST", body: form, signal });
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    }, { once: true });
  });
}

// Runs a few tasks at a time; `clear` removes those that have not started.
export class Queue {
  #waiting = [];
  #running = 0;

  add(task) {
    this.#waiting.push(task);
    this.#next();
  }

  clear() {
    this.#waiting.length = 0;
  }

  get size() {
    return this.#waiting.length + this.#running;
  }

  async #next() {
    if (this.#running >= MOST_AT_ONCE || !this.#waiting.length) return;
    this.#running += 1;
    try {
      await this.#waiting.shift()();
    } finally {
      this.#running -= 1;
      this.#next();
    }
  }
}
