"""Inlay as a library: embedders over a service that runs on an event loop in a thread."""
