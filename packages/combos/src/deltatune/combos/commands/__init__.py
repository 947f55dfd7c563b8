"""The commands of `deltatune-combos`."""
