"""The steps of :mod:`benchmarks.gpu`, one module each, with their runner and their report."""
