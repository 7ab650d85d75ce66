"""When to measure and to draw: Lightning callbacks, one a file."""
