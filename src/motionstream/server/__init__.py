"""Serves streams to browsers: an engine independent of transport, a versioned protocol, and a web page."""
