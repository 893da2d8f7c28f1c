"""Pipeline schedules: the order of forward and backward tasks on every rank, one registered class each."""
