"""Trained runs: loading, posteriors, decoding and samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mmvae import Run, load, runs, train
from pyro_mmvae.data import register_data
from pyro_mmvae.runs import RunError
from pyro_mmvae.runs.checkpoint import CheckpointError
from pyro_mmvae.runs.config import Config, ConfigError, make_config
from pyro_mmvae.runs.sampling import draw_samples, to_pixels, training_samples

MakeConfig = Callable[..., Config]
LATENT = 4


@pytest.fixture
def run(toy_config: MakeConfig, tmp_path: Path) -> Run:
    return train(toy_config(model__aggregation="mopoe", train__epochs=1), tmp_path / "run", progress=False)


@pytest.fixture
def values() -> dict[str, Tensor]:
    return {f"m{m}": torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8) for m in range(3)}


def test_load_returns_the_trained_model_in_eval_mode(run: Run, values: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    again = load(run.path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.vae.training
    assert again.config == run.config
    assert again.names == ("m0", "m1", "m2")
    assert again.device == torch.device("cpu")
    assert again.model is again.vae.model
    assert again.guide is again.vae.guide
    assert torch.equal(again.posterior(values).mean, run.posterior(values).mean)
    assert load(str(run.path)).state == run.state


def test_load_of_a_moved_run_returns_the_trained_model(run: Run, tmp_path: Path, values: dict[str, Tensor]) -> None:
    shutil.move(run.path, tmp_path / "elsewhere")
    moved = load(tmp_path / "elsewhere", device="cpu")
    assert torch.equal(moved.posterior(values).mean, run.posterior(values).mean)


@pytest.mark.parametrize("given", [None, ("m0",), ["m2", "m0"], ("m1", "m2"), ("m0", "m1", "m2")])
def test_posterior_given_some_modalities_equals_that_of_the_model(
    run: Run, values: dict[str, Tensor], given: Any
) -> None:
    posterior = run.posterior(values, given)
    assert (posterior.batch_shape, posterior.event_shape) == ((5,), (LATENT,))
    chosen = {name: value for name, value in values.items() if given is None or name in given}
    with torch.no_grad():
        expected = run.vae.posterior(chosen, "mixture")
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.variance, expected.variance)
    assert posterior.num_components == 7
    alive = (posterior.probs[0] > 0).sum()
    assert alive == 2 ** len(chosen) - 1
    assert not posterior.mean.requires_grad
    full = run.posterior(values, given, density="joint")
    torch.testing.assert_close(full.mean, run.vae.posterior(chosen, "joint").mean.detach())
    assert torch.equal(run.posterior(chosen).mean, posterior.mean)


def test_posterior_given_nothing_is_the_prior(run: Run, values: dict[str, Tensor]) -> None:
    for density in ("mixture", "joint"):
        posterior = run.posterior(values, (), density=density)
        assert posterior.batch_shape == (5,)
        torch.testing.assert_close(posterior.mean, torch.zeros(5, LATENT))
        torch.testing.assert_close(posterior.variance, torch.ones(5, LATENT))


def test_posterior_of_pixels_accepts_bytes_and_floats(run: Run, values: dict[str, Tensor]) -> None:
    expected = run.posterior(values).mean
    for convert in (lambda v: v / 255, lambda v: v.double() / 255):
        posterior = run.posterior({name: convert(value) for name, value in values.items()})
        assert posterior.mean.dtype == torch.float32
        torch.testing.assert_close(posterior.mean, expected)


def test_posterior_with_a_mask_leaves_absent_modalities_out(run: Run, values: dict[str, Tensor]) -> None:
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[2:, 1:] = False
    posterior = run.posterior({**values, "present": mask})
    torch.testing.assert_close(posterior.mean[:2], run.posterior(values).mean[:2])
    torch.testing.assert_close(posterior.mean[2:], run.posterior(values, ("m0",)).mean[2:])


def test_posterior_with_wrong_names_or_shapes_raises_in_one_line(run: Run, values: dict[str, Tensor]) -> None:
    for arguments, message in (
        ((values, ("m0", "m7")), "given: unknown modality 'm7'; the run has m0, m1, m2"),
        (({"m0": values["m0"]}, ("m0", "m1")), "given: modality 'm1' has no values"),
        (({**values, "m7": values["m0"]},), "unknown modality 'm7'"),
        (({"m0": values["m0"][:, :, :4]},), "modality 'm0' has items of shape"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run.posterior(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="density must be one of mixture, component, subsets, joint, got 'best'"):
        run.posterior(values, density="best")


def test_posterior_with_too_many_components_raises_and_suggests_joint(toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(
        data__modalities=13, model__aggregation="mwb", train__epochs=1, data__train_size=8, data__val_size=4
    )
    run = train(config, tmp_path / "run", progress=False)
    values = {name: torch.rand(2, 3, 8, 8) for name in run.names}
    with pytest.raises(
        ValueError, match="use density='joint' for the component of all modalities to condition on"
    ) as error:
        run.posterior(values, ("m0",))
    assert "8,191 components" in str(error.value)
    assert run.posterior(values, ("m0", "m5"), density="joint").batch_shape == (2,)


def test_decode_keeps_leading_dimensions_without_gradients(run: Run) -> None:
    z = torch.randn(2, 5, LATENT, dtype=torch.float64, requires_grad=True)
    decoded = run.decode(z)
    assert {name: value.shape for name, value in decoded.items()} == dict.fromkeys(run.names, (2, 5, 3, 8, 8))
    for name, value in run.decode(z[1, 3]).items():
        assert value.shape == (3, 8, 8)
        assert value.dtype == torch.float32
        assert not value.requires_grad
        torch.testing.assert_close(value, decoded[name][1, 3], rtol=1e-4, atol=1e-5)


def test_data_loads_a_split(run: Run) -> None:
    assert (run.data("test").split, len(run.data("val"))) == ("test", 32)
    with pytest.raises(ValueError, match="must be one of .*, got 'dev'"):
        run.data("dev")


def test_load_of_unusable_folders_raises(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"{tmp_path} is not a run directory"):
        load(tmp_path)
    with pytest.raises(RunError, match="is not a run directory"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="checkpoint must be 'best' or 'last', got 'first'"):
        load(run.path, checkpoint="first")
    with pytest.raises(ValueError, match="device 'warp' is unavailable"):
        load(run.path, device="warp")
    (run.path / "best.safetensors").unlink()
    assert load(run.path).state["epoch"] == 1  # falls back on the last one
    (run.path / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: there is no such checkpoint"):
        load(run.path)


def test_load_with_another_configuration_raises(run: Run) -> None:
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("latent_size: 4", "latent_size: 5"))
    with pytest.raises(CheckpointError, match=r"best\.safetensors: the parameters do not fit the model"):
        load(run.path)
    (run.path / "config.yaml").write_text("model: {latent: 3}")
    with pytest.raises(ConfigError, match=r"model\.latent: no such setting"):
        load(run.path)


def test_load_with_a_missing_plugin_raises(run: Run) -> None:
    config = make_config(run.path / "config.yaml", {"plugins": ["no_such_module_anywhere"]})
    (run.path / "config.yaml").write_text(runs.dump_config(config))
    with pytest.raises(RunError, match="needs the plugin 'no_such_module_anywhere', .* pass --plugin no_such_module"):
        load(run.path)
    with pytest.raises(RunError, match="plugin 'no_such_module_anywhere' cannot be imported"):
        load(run.path, plugins=["no_such_module_anywhere"])


def test_training_samples_show_one_item_per_class_and_every_pair_of_modalities(run: Run) -> None:
    data = run.data("val")
    arrays = training_samples(run, data, 4)
    names = run.names
    assert set(arrays) == {
        *(f"observed.{n}" for n in names), *(f"reconstruction.{n}" for n in names),
        *(f"generated.{g}.{n}" for g in names for n in names), *(f"present.{n}" for n in names), "classes",
    }  # fmt: skip
    for name in names:
        assert arrays.pop(f"present.{name}").tolist() == [True] * 4
    assert arrays.pop("classes").tolist() == ["0", "1", "2", "3"]
    assert all(a.dtype == np.uint8 and a.shape == (4, 3, 8, 8) for a in arrays.values())
    rows = [int((data.labels == label).nonzero()[0]) for label in range(4)]
    values = {name: data.modalities[name][rows] for name in names}
    for name in names:
        assert (arrays[f"observed.{name}"] == values[name].numpy()).all()
    decoded = run.decode(run.posterior(values, density="joint").mean)
    assert (arrays["reconstruction.m1"] == to_pixels(decoded["m1"])).all()
    decoded = run.decode(run.posterior(values, ("m2",), density="joint").mean)
    assert (arrays["generated.m2.m0"] == to_pixels(decoded["m0"])).all()


def test_draw_samples_conditions_on_test_items_or_draws_from_the_prior(run: Run, opened: list[str]) -> None:
    opened.clear()
    samples = draw_samples(run, ("m0",), (), count=6, seed=3)
    assert opened == ["test"]
    assert set(samples.given) == {"m0"}
    assert set(samples.generated) == {"m1", "m2"}
    test = run.data("test").modalities["m0"].numpy()
    assert all((test == image).all((1, 2, 3)).any() for image in samples.given["m0"])
    assert len({image.tobytes() for image in samples.given["m0"]}) == 6
    prior = draw_samples(run, count=6, seed=3)
    assert prior.given == {}
    assert set(prior.generated) == set(run.names)
    both = draw_samples(run, ("m0", "m1"), ("m1",), count=2)
    assert (list(both.given), list(both.generated)) == (["m0", "m1"], ["m1"])
    for one in (samples, prior):
        assert all(images.shape[0] == 6 and images.dtype == np.uint8 for images in one.generated.values())
    same, other = draw_samples(run, ("m0",), count=6, seed=3), draw_samples(run, ("m0",), count=6, seed=4)
    assert (same.generated["m1"] == samples.generated["m1"]).all()
    assert not (other.given["m0"] == samples.given["m0"]).all()
    for arguments, message in (
        ((("m9",), ()), "unknown modality 'm9'; the run has m0, m1, m2"),
        (((), ("m9",)), "unknown modality 'm9'"),
        ((("m0",), (), 33), "count must be at most 32, the test items with m0, got 33"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_samples(run, *arguments)


@pytest.mark.usefixtures("registered")
def test_samples_of_vectors_and_tokens_are_arrays_and_rows_with_classes(toy_config: MakeConfig, tmp_path: Path) -> None:
    from pyro_mmvae import MultimodalDataset
    from pyro_mmvae.modality_spec import ModalitySpec

    @register_data("vectors")
    def load_vectors(
        split: str, *, cache: bool = True, modalities: int = 2, train_size: int = 64, val_size: int = 16,
        test_size: int = 16, photographs: Any = None, seed: int = 0,
    ) -> MultimodalDataset:  # fmt: skip
        values: dict[str, Any] = {
            f"v{m}": torch.rand(40, 5, generator=torch.Generator().manual_seed(m)) for m in range(modalities)
        }
        values["code"] = torch.arange(40)[:, None] % 3
        present = torch.ones(40, modalities + 1, dtype=torch.bool)
        present[0, 0] = False
        labels = torch.arange(40) % 4 - 1
        return MultimodalDataset(
            values, labels, present, "vectors", split, modality_specs={"code": ModalitySpec(data_type="tokens")},
            class_names=("cat", "_dog", "$c$"),
        )  # fmt: skip

    run = train(toy_config(data__name="vectors", data__modalities=2), tmp_path / "vectors", progress=False)
    with np.load(run.path / "samples.npz") as file:
        arrays = dict(file)
    test = run.data("test")
    assert sorted(set(arrays["classes"])) == ["", "$c$", "_dog", "cat"]
    assert np.isnan(arrays["observed.v0"][arrays["classes"] == ""]).all(1).sum() == 1  # the absent observation
    assert (~arrays["present.v0"]).tolist() == np.isnan(arrays["observed.v0"]).all(1).tolist()
    assert {arrays[f"generated.{given}.v1"].shape for given in run.names} == {(10, 5)}
    assert set(arrays["observed.code"]) | set(arrays["generated.v0.code"]) <= {"0", "1", "2"}
    drawn = draw_samples(run, ("v0",), count=3)
    assert (drawn.given, drawn.generated) == ({}, {})
    shapes = {name: array.shape for name, array in drawn.arrays.items()}
    assert shapes == {"given.v0": (3, 5), "generated.v1": (3, 5), "generated.code": (3, 1)}
    rows = dict(drawn.rows)
    assert list(rows) == ["class", "given v0 (s.d.)", "v1 (s.d.)", "code"]
    standardized = (drawn.arrays["given.v0"] - arrays["center.v0"]) / arrays["spread.v0"]
    np.testing.assert_allclose(rows["given v0 (s.d.)"], standardized, rtol=1e-5, atol=1e-6)
    for value, label in zip(drawn.arrays["given.v0"], rows["class"], strict=True):
        (item,) = (test.tensors["v0"] == torch.from_numpy(value)).all(1).nonzero()[:, 0].tolist()
        assert label == ["", "cat", "_dog", "$c$"][item % 4]
    assert rows["code"].tolist() == [str(int(code)) for code in drawn.arrays["generated.code"][:, 0]]
    assert [label for label, _ in draw_samples(run, count=2).rows] == ["v0 (s.d.)", "v1 (s.d.)", "code"]
