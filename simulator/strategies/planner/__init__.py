"""Planners: search plans under memory limits; evaluation is handed in from above."""
