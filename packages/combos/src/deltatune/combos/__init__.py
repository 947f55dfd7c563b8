"""Combinations and orders of prompt, bias and adapter tuning."""
