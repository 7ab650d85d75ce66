"""Train a small CNN from a configuration, see what it learned, trust what you see."""
