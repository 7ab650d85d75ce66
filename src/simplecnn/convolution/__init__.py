"""Convolution from its definition, and kernels with a name. NumPy only."""
