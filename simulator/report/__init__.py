"""What a user reads: the terminal, explanations, inventories, traces for other viewers."""
