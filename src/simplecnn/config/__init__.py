"""Compose, validate and build configurations. Does not import torch."""
