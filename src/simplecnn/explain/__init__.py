"""What a network learned, and what holds of what is said of it."""
