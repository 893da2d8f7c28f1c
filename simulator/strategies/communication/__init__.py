"""Communication passes: buckets, priorities, compression, aggregation, local steps. Joined with ``+`` in a plan."""
