"""The commands of `deltatune-subspace`."""
