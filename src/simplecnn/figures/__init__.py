"""Arrays in, matplotlib `Figure` out: usable from a notebook, no torch modules, no Lightning."""
