"""The packages that read and write omics files, without which the tests of this folder are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def omics() -> Iterator[Any]:
    """Import both packages without their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import anndata
            import mudata
        except ImportError as error:
            pytest.skip(f"the extra 'omics' is not installed: {error}")
        if hasattr(anndata.settings, "allow_write_nullable_strings"):  # the strings of pandas 3
            anndata.settings.allow_write_nullable_strings = True
        yield anndata, mudata
