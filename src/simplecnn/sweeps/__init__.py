"""Sweeps: planning and running the jobs, the sweep directory, its report, hyperparameter search."""
