"""Pods, workers and the outside world on one machine: for the demo, the tests and the benchmarks."""
