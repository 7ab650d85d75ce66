"""Explanations of trained networks: what they learned, and which claims about them hold."""
