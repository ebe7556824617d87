"""Ratios of speed, measured in one run with the contestants in turn: ``python -m benchmarks``."""
