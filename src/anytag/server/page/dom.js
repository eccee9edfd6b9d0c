// Creates elements from data. Text is never parsed as HTML: names of files and tags are untrusted.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function button(text, action, label = null) {
  const made = element("button", { type: "button", class: "plain" }, text);
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

export function counted(number, one = "photo") {
  return `${number.toLocaleString()} ${number === 1 ? one : `${one}s`}`;
}

// Calls the action once there has been no call for some milliseconds.
export function debounced(action, milliseconds) {
  let timer = 0;
  const soon = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
  soon.cancel = () => clearTimeout(timer);
  return soon;
}

const PIECE = 8; // milliseconds of work between pauses

// For long work: the returned function is awaited often, and yields to the event loop every few milliseconds.
export function pauses() {
  let began = -Infinity; // so that the first call yields
  return async () => {
    if (performance.now() - began < PIECE) return;
    await new Promise((resolve) => setTimeout(resolve));
    began = performance.now();
  };
}
