"""User data with text and images with means in [0, 1], from a folder to pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main

ALPHABET = ".abcde"


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_meta_yaml_alphabet_and_output_reach_model_and_pictures(elsewhere: Path) -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 6, (60, 12))
    for row, length in enumerate(generator.integers(1, 13, 60)):
        tokens[row, length:] = 0
    (elsewhere / "mine").mkdir()
    np.save("mine/words.npy", tokens)
    np.save("mine/image.npy", generator.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8))
    Path("mine/meta.yaml").write_text(
        f'modalities: {{words: {{alphabet: "{ALPHABET}", padding: "."}}, image: {{output: sigmoid}}}}\n'
    )
    settings = [f"--set=model.{word}" for word in ("latent_size=3", "network.width=4", "network.hidden=8")]
    invoke("train", "--data", "mine", "--out", "out", "--epochs", "0", "--quiet", "--device", "cpu", *settings)
    run = load("out", device="cpu")
    modalities = {modality.name: modality for modality in run.vae.modalities}
    assert (modalities["image"].output, modalities["words"].classes, run.alphabet("words")) == ("sigmoid", 6, ALPHABET)
    decoded = run.decode(100 * run.model.prior().sample((50,)))["image"]
    assert 0 <= decoded.min() < decoded.max() <= 1
    printed = invoke("sample", "out", "--given", "words", "-n", "4", "--device", "cpu", "--out", "a.npz")
    with np.load("a.npz") as file:
        arrays = dict(file)
    texts = arrays["given.words.string"].tolist()
    strings = {"".join(ALPHABET[token] for token in row).rstrip(".") for row in tokens}
    assert set(texts) <= strings
    assert f"  given words  |{'|'.join(texts)}|\n" in printed
    invoke("data", "info", "mine", "--split", "val", "--sheet", "sheet.png", "-n", "3")
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    with np.load("out/samples.npz") as file:
        assert set(file["observed.words"].tolist()) <= strings
