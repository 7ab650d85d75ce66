"""Lightning callbacks that checkpoint, log, measure and draw during a run, one per module."""
