"""Contents of members: arrays, images and texts, and what is refused."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest

from pyro_mmvae.data.own.shards.decoding import Format, find_item_format, parse_npy


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool", ">f4"])
def test_parse_npy_of_numbers_returns_them(dtype: str) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    assert np.array_equal(parse_npy(npy(array)), array)
    assert parse_npy(npy(np.array(2.5))).shape == ()


def test_parse_npy_of_pickle_raises_without_loading_it() -> None:
    with pytest.raises(ValueError, match="pickles are never loaded"):
        parse_npy(npy(np.array([{"a": 1}], dtype=object), allow_pickle=True))
    with pytest.raises(ValueError, match="must be an array of NumPy"):
        parse_npy(pickle.dumps([1, 2]))


def test_parse_npy_of_other_length_raises() -> None:
    content = npy(np.zeros(4, dtype=np.float32))
    for damaged in (content[:-1], content + b"x", content[:40], content.replace(b"(4,)", b"(8,)")):
        with pytest.raises(ValueError, match="must be an array"):
            parse_npy(damaged)
    header = content.replace(b"(4,), }      ", b"(99999999999,)}").replace(b"(4,), }", b"(2**9,)}")
    with pytest.raises(ValueError, match="must be an array"):
        parse_npy(header)


def test_decode_of_other_shape_or_type_raises_and_names_the_member() -> None:
    form = Format("npy", (2,), "float32")
    good = npy(np.ones(2, dtype=np.float32))
    for bad in (np.ones(3, dtype=np.float32), np.ones(2)):
        with pytest.raises(ValueError, match=r"member 1: must be an array of shape \(2,\) of float32"):
            form.decode([good, npy(bad)], lambda position: f"member {position}")
    assert form.decode([good], str).tolist() == [[1.0, 1.0]]


def bomb(size: int) -> bytes:
    """Return a PNG whose header states a size that its few bytes do not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_decode_of_image_of_other_size_raises_before_it_is_decoded() -> None:
    form = Format("image", (1, 8, 8), "uint8")
    for content, words in ((bomb(10_000), "must have height x width 8 x 8"), (b"no image", "must be a readable image")):
        with pytest.raises(ValueError, match=f"place: the member {words}") as error:
            form.decode([content], lambda position: "place")
        assert "\n" not in str(error.value)


def test_decode_of_texts_pads_them_and_names_unknown_characters() -> None:
    form = Format("txt", (8,), "int8", "*abc", "*")
    assert form.decode([b"cab", b""], str).tolist() == [[3, 1, 2, 0, 0, 0, 0, 0], [0] * 8]
    with pytest.raises(ValueError, match="1: characters must be those of the alphabet"):
        form.decode([b"a", b"x"], str)
    with pytest.raises(ValueError, match="0: must be text in UTF-8"):
        form.decode([b"\xff"], str)


def test_find_item_format_returns_shape_and_type() -> None:
    assert find_item_format("npy", npy(np.zeros((2, 3), dtype=np.int16)), None, "m") == Format("npy", (2, 3), "int16")
    with pytest.raises(ValueError, match="m: must be an array"):
        find_item_format("npy", b"", None, "m")


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"),
    [("npy", (2,), "object"), ("npy", (2,), "nothing"), ("npy", (10**12,), "float32"), ("npy", (0,), "float32"),
     ("image", (2, 8, 8), "uint8"), ("image", (3, 8), "uint8"), ("txt", (8,), "int8")],
)  # fmt: skip
def test_format_of_impossible_items_raises(encoding: str, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Format(encoding, shape, dtype)  # type: ignore[arg-type]
