"""The steps of :mod:`benchmarks.gpu`, one module each, and what runs them and writes down what they found."""
