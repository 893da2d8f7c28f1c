"""Parts of one batch beside each other: messages of the one behind the computation of the other."""
