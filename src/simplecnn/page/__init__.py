"""One HTML file a run: no server, no network, opened by a double click."""
