"""Makes completions/ and man/ out of kvctl's own commands: `python -m reference`. Not installed."""
