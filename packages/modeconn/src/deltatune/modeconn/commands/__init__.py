"""The commands of `deltatune-modeconn`."""
