"""An interactive view of a trained run: items, their experts, and posteriors under any aggregation."""

from pyro_mmvae.explore.explorer import Component, Explorer, View

__all__ = ["Component", "Explorer", "View"]
