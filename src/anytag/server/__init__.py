"""HTTP server: a versioned JSON API and the web page that uses it (extra `serve`)."""
