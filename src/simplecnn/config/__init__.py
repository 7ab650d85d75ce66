"""What a configuration may be, and how it is composed. No torch."""
