"""Paths with braces that stand for several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mmvae.data.storage.patterns import expand_braces, matching_paths


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [("a.tar", ["a.tar"]), ("s-{0000..0002}.tar", ["s-0000.tar", "s-0001.tar", "s-0002.tar"]),
     ("s-{8..10}", ["s-8", "s-9", "s-10"]), ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]), ("{x}{}", ["{x}{}"])],
)  # fmt: skip
def test_expand_braces_returns_the_texts_in_order(pattern: str, texts: list[str]) -> None:
    assert expand_braces(pattern) == texts


@pytest.mark.parametrize("pattern", ["{5..1}", "{0..99999999}", "{1..2000}" * 3])
def test_expand_braces_of_impossible_range_raises(pattern: str) -> None:
    with pytest.raises(ValueError, match="must"):
        expand_braces(pattern)


def test_matching_paths_of_existing_file_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "{1..2}.tar").touch()
    assert matching_paths(tmp_path / "{1..2}.tar") == [tmp_path / "{1..2}.tar"]
    assert matching_paths(tmp_path / "{3..4}.tar") == [tmp_path / "3.tar", tmp_path / "4.tar"]
