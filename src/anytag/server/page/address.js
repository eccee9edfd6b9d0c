// The state of the view in the URL's hash, for reloads, the back button and bookmarks. URLs are untrusted input:
// they are used only as text for fields and as photo ids.

const FIELDS = ["text", "tag", "exclude", "after", "before", "order", "like", "photo", "large"];
const MOST = 1000; // characters of a field

let waiting = 0;
let later = null;

export function read() {
  const [view, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const given = new URLSearchParams(query);
  const fields = FIELDS.map((name) => [name, (given.get(name) ?? "").slice(0, MOST)]);
  return { view, ...Object.fromEntries(fields) };
}

function written({ view, ...fields }) {
  const query = new URLSearchParams(FIELDS.map((name) => [name, fields[name]]).filter(([, value]) => value));
  return `#${view}${query.size ? `?${query}` : ""}`;
}

// Adds a history entry.
export function push(fields, state = null) {
  flush();
  if (written(fields) !== location.hash) history.pushState(state, "", written(fields));
}

// Replaces the history entry after a delay: browsers limit the number of changes per second.
export function replace(fields) {
  later = fields;
  clearTimeout(waiting);
  waiting = setTimeout(flush, 300);
}

export function forget() {
  clearTimeout(waiting);
  later = null;
}

function flush() {
  if (later && written(later) !== location.hash) history.replaceState(history.state, "", written(later));
  forget();
}
