"""How fast everything is, and beside whom."""
