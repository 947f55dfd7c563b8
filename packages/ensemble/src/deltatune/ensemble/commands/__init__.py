"""The subcommands of `deltatune-ensemble`."""
