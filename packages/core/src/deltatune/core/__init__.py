"""The core of deltatune."""
