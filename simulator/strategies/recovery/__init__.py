"""Recovery of training jobs: what is saved where, and how work goes on after a failure."""
