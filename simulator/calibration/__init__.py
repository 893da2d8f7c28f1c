"""Calibration: torch microbenchmarks, fits, imported measurements, and predictions checked against the machine."""
