"""The live check: what a pod sends, and which source the other end sees."""
