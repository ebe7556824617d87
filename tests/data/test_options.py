"""Tests of the options and messages that loaders share."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_mmvae.data.options import describe_item


@pytest.mark.parametrize(
    ("ids", "name"),
    [(None, "item 1"), (np.array(["0", "1"]), "item 1"), (["c7", "c8"], "item 'c8'"), ([5, 3], "item '3'")],
)
def test_describe_item_names_the_identifier_unless_it_is_the_position(ids: list[str] | None, name: str) -> None:
    assert describe_item(ids, 1) == name
