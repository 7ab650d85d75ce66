"""When to look: thin Lightning callbacks."""
