// What is looked at, in the address: a reload, the back button and a bookmark show it again. Anybody can write an
// address, so what it says is text for fields and numbers of photos, nothing else.

const FIELDS = ["text", "tag", "exclude", "after", "before", "order", "like", "photo", "large"];
const MOST = 1000; // letters of a field

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

// A new step: the back button leads to the one before.
export function push(fields, state = null) {
  flush();
  if (written(fields) !== location.hash) history.pushState(state, "", written(fields));
}

// The same step, soon: browsers refuse many changes a second.
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
