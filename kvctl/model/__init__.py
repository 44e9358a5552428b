"""The nouns: frozen values without I/O, understood by every other package.

What the quick commands import are NamedTuples: making such a class takes a sixth of the time of a frozen
dataclass, and half of what `list` does is importing.
"""
