"""Evaluate, predict with and export the network of a finished run."""
