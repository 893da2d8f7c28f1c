"""Parameter-efficient fine-tuning: frozen weights, few trainable ones."""
