"""Parameter-efficient weight ensembling: a start for a new task from many tasks' deltas."""
