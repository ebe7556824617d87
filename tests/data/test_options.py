"""Tests of the options and messages that loaders share."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_mmvae.data.options import DataError, describe_item


@pytest.mark.parametrize(
    ("ids", "name"),
    [(None, "item 1"), (np.array(["0", "1"]), "item 1"), (["c7", "c8"], "item 'c8'"), ([5, 3], "item '3'")],
)
def test_describe_item_names_the_identifier_unless_it_is_the_position(ids: list[str] | None, name: str) -> None:
    assert describe_item(ids, 1) == name


def test_data_error_with_line_breaks_from_data_is_one_line() -> None:
    error = DataError(["t.csv: column 'a': item 0: folder/\n0\tphoto.png\u2028 must be an image file", "b"])
    assert error.problems[0] == r"t.csv: column 'a': item 0: folder/\n0\tphoto.png\u2028 must be an image file"
    assert str(error).startswith(error.problems[0])
    assert len(str(error).splitlines()) == 1
