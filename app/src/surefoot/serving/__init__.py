"""Answer requests, survive a dead worker, swap without a gap: a supervisor, a gateway and one worker a model."""
