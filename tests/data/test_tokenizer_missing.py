"""The error without the package ``tokenizers``."""

from __future__ import annotations

import sys

import pytest

from pyro_mmvae.data import to_dataset


def test_to_dataset_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-mmvae\[tokenizers\]'"):
        to_dataset({"caption": ["a", "b"]}, tokenizer="bpe:300")
