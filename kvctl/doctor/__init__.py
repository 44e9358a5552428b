"""Whether egress can work on this host: looked at, never changed."""
