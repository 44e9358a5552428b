"""From what is wanted and what is there to what will be: `apply`, `diff`, `flush`, and the comparison of `list`."""
