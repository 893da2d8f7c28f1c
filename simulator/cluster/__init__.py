"""The cluster: training jobs and deployments side by side on one clock and one fabric, with energy and cost."""
