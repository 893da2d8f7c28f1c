"""What is asked: models and their Ops, plans, frameworks, training jobs, requests."""
