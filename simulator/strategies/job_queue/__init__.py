"""Job queues: who runs next on a cluster that cannot run all."""
