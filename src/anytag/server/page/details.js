// A bounded cache of the details of photos of the library, loaded for photos in view.

import { getJson } from "./api.js";

const AT_ONCE = 200;
const KEPT = 5000;

const photos = new Map(); // id -> photo
const loading = new Set();
const watchers = [];

export function known(id) {
  return photos.get(id);
}

// `watcher` is called with photos whose details have changed.
export function watch(watcher) {
  watchers.push(watcher);
}

export function keep(some) {
  if (photos.size + some.length > KEPT) photos.clear();
  for (const photo of some) photos.set(photo.id, photo);
  for (const watcher of watchers) watcher(some);
}

export async function load(ids) {
  const wanted = ids.filter((id) => !photos.has(id) && !loading.has(id));
  for (const id of wanted) loading.add(id);
  try {
    for (let start = 0; start < wanted.length; start += AT_ONCE) {
      const query = wanted.slice(start, start + AT_ONCE).map((id) => `id=${id}`).join("&");
      keep((await getJson(`/v1/photos?${query}`)).photos);
    }
  } finally {
    for (const id of wanted) loading.delete(id);
  }
}
