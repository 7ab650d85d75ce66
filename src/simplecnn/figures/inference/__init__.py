"""The pictures of predict and evaluate: arrays in, matplotlib Figure out."""
