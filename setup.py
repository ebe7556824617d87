"""Shim for tools that still want one; everything is in pyproject.toml."""

from setuptools import setup

setup()
