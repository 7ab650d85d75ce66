"""Plotting functions: NumPy arrays in, matplotlib `Figure` out; no torch modules, no Lightning."""
