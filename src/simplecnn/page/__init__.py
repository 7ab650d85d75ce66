"""Self-contained HTML reports of runs and sweeps, which need neither a server nor a network."""
