"""Mode connectivity of tuned pre-trained language models."""
