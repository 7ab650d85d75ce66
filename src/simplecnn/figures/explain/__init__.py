"""The pictures of scripts/explain.py: arrays in, matplotlib Figure out."""
