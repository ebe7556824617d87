"""The version of the package, for modules below the top level that record it."""

__version__ = "0.2.0.dev0"
