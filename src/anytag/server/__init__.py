"""HTTP: tags, captions and matches over a small versioned API, and a page that speaks to it (extra `serve`)."""
