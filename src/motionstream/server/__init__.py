"""Serving streams to browsers: an engine that knows no transport, a versioned protocol, a page."""
