"""HTTP: a versioned API of tags and captions, and a page that speaks to it (extra `serve`)."""
