"""The wirings that can be named as ``cluster.fabric.topology``, one file each."""
