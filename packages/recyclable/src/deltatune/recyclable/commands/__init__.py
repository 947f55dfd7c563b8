"""The commands of `deltatune-recyclable`."""
