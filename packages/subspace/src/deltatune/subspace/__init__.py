"""One low-dimensional space in which adapter, LoRA and prefix are optimized."""
