"""Texts by tokenizers of the package ``tokenizers``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae.data import describe_data, load_data, match_data, to_dataset, write_folder
from pyro_mmvae.data.own.tokenized import set_tokenizers
from pyro_mmvae.data.tokenizer import decode_tokens, open_tokenizer, read_tokenizer

package = pytest.importorskip("tokenizers")

CAPTIONS = [f"a {c} {a} im Fluß 日本" for c in ("red", "blue", "grün") for a in ("cat", "dog", "fish")] * 4
CAPTIONS[4] = ""


def word_file(folder: Path) -> Path:
    """Write a tokenizer of words, with special tokens and a padding of its own."""
    words = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "red": 3, "cat": 4, "dog": 5}
    tokenizer = package.Tokenizer(package.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = package.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[PAD]", "[CLS]"])
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_to_dataset_with_bpe_round_trips_every_text() -> None:
    data = to_dataset({"caption": CAPTIONS}, tokenizer="bpe:300")
    spec = data.modality_specs["caption"]
    assert decode_tokens(data.tensors["caption"], spec) == CAPTIONS
    assert spec.classes is not None
    assert 257 <= spec.classes <= 300
    assert int(data.tensors["caption"].max()) < spec.classes


def test_read_tokenizer_with_bpe_twice_gives_one_vocabulary() -> None:
    first, second = (read_tokenizer("x", "bpe:280", Path(), lambda: CAPTIONS) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("request_", "reason"), [("bpe:256", "at least 257"), ("bpe:x", "at least 257"), ("none.json", "cannot be read")]
)
def test_to_dataset_with_wrong_tokenizer_says_what_was_expected(request_: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"modality 'caption': tokenizer must be .*{reason}|{reason}"):
        to_dataset({"caption": CAPTIONS}, tokenizer=request_)


def test_to_dataset_with_tokenizer_without_strings_is_an_error() -> None:
    with pytest.raises(ValueError, match="no modality holds strings"):
        to_dataset({"x": np.eye(3)}, tokenizer="bpe:300")


def test_decode_skips_special_tokens_padding_and_numbers_outside_the_vocabulary(tmp_path: Path) -> None:
    opened = open_tokenizer(read_tokenizer("x", str(word_file(tmp_path)), Path(), None))
    assert (opened.padding, opened.classes) == (1, 6)
    assert opened.encode(["red cat", "red elephant", ""]) == [[3, 4], [3, 0], []]
    assert opened.decode(np.array([[2, 3, 1, 4, 99, -1]])) == ["red cat"]


def test_set_tokenizers_trains_on_the_given_rows_only() -> None:
    from pyro_mmvae.data.own.columns import convert_column

    columns = {"caption": convert_column("x", ["aaaa"] * 5 + ["zzzzzz"] * 5)}
    specs = set_tokenizers("x", columns, {}, "bpe:270", lambda count: np.arange(count // 2))
    assert '"aa"' in (specs["caption"].tokenizer or "")
    assert '"zz"' not in (specs["caption"].tokenizer or "")


def test_write_folder_with_tokenizer_is_read_again_after_it_was_moved(tmp_path: Path) -> None:
    data = to_dataset({"caption": CAPTIONS}, tokenizer="bpe:300")
    write_folder(tmp_path / "one", {"train": data})
    (tmp_path / "one").rename(tmp_path / "two")
    again = load_data(str(tmp_path / "two"), "train")
    assert again.modality_specs["caption"].tokenizer == data.modality_specs["caption"].tokenizer
    assert decode_tokens(again.tensors["caption"], again.modality_specs["caption"]) == CAPTIONS


def test_load_data_of_a_table_with_tokenizer_uses_one_vocabulary_in_all_splits(tmp_path: Path) -> None:
    rows = [f"{text},{('train', 'val', 'test')[i % 3]}" for i, text in enumerate(CAPTIONS)]
    (tmp_path / "mine.csv").write_text("\n".join(["caption,split", *rows]), encoding="utf-8")
    train, test = (load_data(str(tmp_path / "mine.csv"), split, tokenizer="bpe:290") for split in ("train", "test"))
    assert train.modality_specs == test.modality_specs
    assert decode_tokens(test.tensors["caption"], test.modality_specs["caption"]) == CAPTIONS[2::3]


def test_match_data_encodes_new_text_and_cuts_it_to_the_length_of_the_model() -> None:
    train = to_dataset({"caption": CAPTIONS}, tokenizer="bpe:300")
    new = to_dataset({"caption": ["a é", "a red cat " * 20]})
    matched, notes = match_data(new, describe_data(train))
    length = train.tensors["caption"].shape[1]
    assert matched.tensors["caption"].shape == (2, length)
    assert decode_tokens(matched.tensors["caption"], matched.modality_specs["caption"])[0] == "a é"
    assert f"texts cut to the {length} tokens of the model: 1 of 2" in " ".join(notes)
