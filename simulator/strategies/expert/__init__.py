"""Expert parallelism: routed experts of a layer spread over ranks, and how tokens and experts meet."""
