"""State passes: which rank keeps parameters, gradients and optimizer states (data parallel, ZeRO, FSDP)."""
