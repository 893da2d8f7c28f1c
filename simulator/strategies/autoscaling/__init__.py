"""How many instances of which kind: reactive, predictive, priced, and what to do when one is taken away."""
