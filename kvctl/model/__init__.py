"""The nouns: frozen values without I/O, understood by every other package."""
