"""Layers that call oneDNN directly where torch's own choice of kernel is slow on a CPU."""
