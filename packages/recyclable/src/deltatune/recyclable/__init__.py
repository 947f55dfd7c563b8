"""Recyclable Tuning: what old deltas are worth on an upgraded base model."""
