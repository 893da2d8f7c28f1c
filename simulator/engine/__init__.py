"""The machinery under every simulation: one clock, in-order streams and append-only tables."""
