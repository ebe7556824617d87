"""How observations are kept: the cache of built data, and tensors that stay on disk."""
