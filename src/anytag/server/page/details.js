// A bounded cache of the details of photos of the library, loaded for photos in view.

import { getJson } from "./api.js";

const AT_ONCE = 200;
const KEPT = 5000;

const photos = new Map(); // id -> photo
const loading = new Map(); // id -> promise of its batch
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

// Rejects if any of these could not be loaded, also where an earlier call asked for it.
export async function load(ids) {
  const missing = ids.filter((id) => !photos.has(id));
  const wanted = missing.filter((id) => !loading.has(id));
  for (let start = 0; start < wanted.length; start += AT_ONCE) {
    const batch = wanted.slice(start, start + AT_ONCE);
    const request = fetchBatch(batch);
    for (const id of batch) loading.set(id, request);
  }
  await Promise.all(missing.map((id) => loading.get(id)));
}

async function fetchBatch(ids) {
  try {
    const query = ids.map((id) => `id=${id}`).join("&");
    keep((await getJson(`/v1/photos?${query}`)).photos);
  } finally {
    for (const id of ids) loading.delete(id);
  }
}
