"""Many models on few accelerators: who runs next, in which batch, on which share, and which models live where."""
