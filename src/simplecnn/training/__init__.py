"""One run, from configuration to directory."""
