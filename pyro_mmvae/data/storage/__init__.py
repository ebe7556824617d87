"""Storage of observations: the cache of built data, and tensors that stay on disk."""
