"""MultimodalVAE: types of modalities, pixels, errors, and its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.vae.names import modality_site, site_modality

ITEMS, LATENT = 6, 3
SMALL = NetworkOptions(width=4, hidden=8)
MODALITIES = [
    Modality("image", (3, 8, 8)),
    Modality("vector", (5,)),
    Modality("label", (), likelihood="categorical", classes=4),
]


def make(modalities: list[Modality] | None = None, aggregation: str = "wb", **options: Any) -> MultimodalVAE:
    options = {"bound": "mixture", "network": SMALL} | options
    return MultimodalVAE(modalities or MODALITIES, LATENT, aggregation, **options)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {
        "image": torch.rand(ITEMS, 3, 8, 8),
        "vector": torch.randn(ITEMS, 5),
        "label": torch.randint(0, 4, (ITEMS,)),
    }


def loss_of(vae: MultimodalVAE, batch: Any) -> Tensor:
    torch.manual_seed(7)
    return Trace_ELBO()(vae.model, vae.guide)(batch)


def test_multimodal_vae_images_vectors_and_labels_have_the_elbo_of_their_sites(batch: dict[str, Tensor]) -> None:
    vae = make()
    posterior = vae.posterior(batch)
    assert (posterior.batch_shape, posterior.event_shape) == ((ITEMS,), (LATENT,))
    trace = poutine.trace(vae.model).get_trace(num_items=4)
    assert trace.nodes["label"]["value"].shape == (4,)
    assert trace.nodes["label"]["value"].dtype == torch.int64
    torch.manual_seed(7)
    z = vae.guide(batch)
    likelihoods, parameters = vae.model.likelihoods, vae.model.decoders(z, vae.names)
    terms = [likelihoods[name](parameters[name]).log_prob(batch[name]).sum() for name in vae.names]
    kl = (posterior.log_prob(z) - vae.model.prior().log_prob(z)).sum()
    torch.testing.assert_close(loss_of(vae, batch), kl - sum(terms))


@pytest.mark.parametrize(("likelihood", "scale"), [("normal", 0.75), ("laplace", 0.75), ("bernoulli", None)])
def test_generative_model_modality_of_numbers_has_the_density_of_its_family(
    likelihood: str, scale: float | None
) -> None:
    vae = make([Modality("number", (), likelihood=likelihood, scale=scale), Modality("vector", (5,))])
    batch = {"number": torch.rand(ITEMS), "vector": torch.randn(ITEMS, 5)}
    mask = torch.ones(ITEMS, 2, dtype=torch.bool)
    mask[: ITEMS // 2, 0] = False
    trace = poutine.trace(vae.model).get_trace({**batch, "present": mask})
    trace.compute_log_prob()
    parameters = vae.model.decoders(trace.nodes["z"]["value"], ["number"])["number"]
    assert parameters.shape == (ITEMS,)
    families: dict[str, Any] = {
        "normal": lambda p: torch.distributions.Normal(p, 0.75),
        "laplace": lambda p: torch.distributions.Laplace(p, 0.75),
        "bernoulli": lambda p: torch.distributions.Bernoulli(logits=p, validate_args=False),
    }
    expected = families[likelihood](parameters).log_prob(batch["number"]) * mask[:, 0]
    torch.testing.assert_close(trace.nodes["number"]["log_prob"], expected)
    torch.testing.assert_close(trace.nodes["number"]["log_prob_sum"], expected.sum())


def test_batch_bytes_have_the_loss_of_bytes_over_255(batch: dict[str, Tensor]) -> None:
    vae = make()
    pixels = torch.randint(0, 256, (ITEMS, 3, 8, 8), dtype=torch.uint8)
    as_bytes, as_floats = ({**batch, "image": image} for image in (pixels, pixels / 255))
    assert torch.equal(loss_of(vae, as_bytes), loss_of(vae, as_floats))
    assert torch.equal(vae.posterior(as_bytes).mean, vae.posterior(as_floats).mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sound": torch.zeros(ITEMS, 3)}, "unknown modality 'sound'; the model has image, vector, label"),
        ({"vector": torch.zeros(ITEMS + 1, 5)}, "modality 'vector' must have 6 items as others have, got 7"),
        ({"vector": torch.zeros(ITEMS, 4)}, r"modality 'vector' has items of shape \(4,\), the model expects \(5,\)"),
        ({"image": torch.zeros(ITEMS, 8, 8)}, r"modality 'image' has items of shape \(8, 8\).* \(3, 8, 8\)"),
        ({"image": torch.zeros(3, 8, 8)}, "modality 'vector' must have 3 items as others have, got 6"),
        ({"present": torch.ones(ITEMS, 2, dtype=torch.bool)}, r"'present' must have shape \(item, 3\), got \(6, 2\)"),
        ({"present": torch.ones(ITEMS, dtype=torch.bool)}, r"'present' must have shape \(item, 3\), got \(6,\)"),
        (
            {"present": torch.ones(ITEMS + 1, 3, dtype=torch.bool)},
            r"mask of modality 'image' must have shape \(6,\), got \(7,\)",
        ),
    ],
)
def test_batch_wrong_shape_is_refused_in_one_line(
    batch: dict[str, Tensor], change: dict[str, Tensor], message: str
) -> None:
    vae = make()
    for run in (vae.guide, vae.posterior, vae.model if "items of shape" not in message else vae.guide):
        with pytest.raises(ValueError, match=message) as error:
            run(batch | change)
        assert "\n" not in str(error.value)


def test_batch_wrong_type_is_refused_in_one_line(batch: dict[str, Tensor]) -> None:
    vae = make()
    for wrong, message in (
        ({**batch, "image": [1.0]}, "modality 'image' must be a tensor .*, got list"),
        ({**batch, "vector": torch.tensor(1.0)}, "modality 'vector' must be a tensor"),
        ({**batch, "present": torch.ones(ITEMS, 3)}, "the mask of modality 'image' must be a bool tensor"),
        ([batch["image"]], "batch must be a Batch or a mapping of tensors, got list"),
    ):
        with pytest.raises(TypeError, match=message) as error:
            vae.guide(wrong)
        assert "\n" not in str(error.value)


def test_model_unknown_name_to_generate_is_refused(batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="unknown modality 'sound' to generate; the model has image, vector, label"):
        make().model(batch, generate=("image", "sound"))


@pytest.mark.parametrize(
    ("modalities", "options", "message"),
    [
        ([], {}, "at least one modality"),
        ([Modality("a", (4,)), Modality("a", (5,))], {}, "different names, got a, a"),
        ([Modality("a", (4,))], {"latent_size": 0}, "latent_size must be a positive integer, got 0"),
        ([Modality("a", (4,))], {"beta": 0.0}, "beta must be positive and finite, got 0.0"),
        ([Modality("a", (4,))], {"beta": float("inf")}, "beta must be positive and finite"),
        ([Modality("a", (4,))], {"expert_weights": (1.0, 2.0)}, "one number per modality, in the order a, got 2"),
        ([Modality("a", (4,))], {"aggregation": "web"}, "unknown aggregation 'web'"),
        ([Modality("a", (4,))], {"bound": "joint"}, "bound must be one of"),
        ([Modality("a", (4,), network="conv")], {}, "network 'conv' needs images"),
        ([Modality("a", (4,), network="resnet")], {}, "modality 'a': unknown network 'resnet'"),
        ([Modality("a", (4,), likelihood="gamma")], {}, "modality 'a': unknown likelihood 'gamma'"),
    ],
)
def test_multimodal_vae_wrong_argument_is_refused(
    modalities: list[Modality], options: dict[str, Any], message: str
) -> None:
    keywords = {"latent_size": LATENT, **options}
    with pytest.raises(ValueError, match=message):
        MultimodalVAE(modalities, **keywords)


@pytest.mark.parametrize("modalities", [["a"], "a", Modality("a", (4,)), [Modality("a", (4,)), 3]])
def test_multimodal_vae_anything_but_modalities_is_refused(modalities: Any) -> None:
    with pytest.raises(TypeError, match=r"modalities must be a sequence of Modality, as in .*, got ") as error:
        MultimodalVAE(modalities)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [3, "x", ("x",), (2.5,), (0,), (-1, 2)])
def test_modality_shape_that_is_not_of_positive_integers_is_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="modality 'a': shape must be a tuple of positive integers, got "):
        Modality("a", shape)


def test_modality_name_that_is_not_a_string_is_refused() -> None:
    with pytest.raises(ValueError, match="the name of a modality must be a file name .*, got 3: rename it"):
        Modality(3, (4,))  # type: ignore[arg-type]


def test_decode_unknown_modality_or_latents_of_another_size_are_refused() -> None:
    vae = make()
    names = "image, vector, label"
    with pytest.raises(ValueError, match=rf"names must be modalities of the model \({names}\), got 'sound'"):
        vae.decode(torch.zeros(1, LATENT), ["image", "sound"])
    with pytest.raises(ValueError, match=rf"private must be modalities of the model \({names}\), got 'sound'"):
        vae.decode(torch.zeros(1, LATENT), private={"sound": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=rf"z must be a tensor of shape \(\*batch, {LATENT}\), got \(1, "):
        vae.decode(torch.zeros(1, LATENT + 1))
    assert list(vae.decode(torch.zeros(1, LATENT), "vector")) == ["vector"]


@pytest.mark.parametrize("name", ["present", "", ".", "..", "a/b", "a\nb"])
def test_modality_name_that_no_file_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a modality must be a file name of printable characters"):
        Modality(name, (4,))


AWKWARD_NAMES = (
    "z", "data", "z_weights_entropy", "_RETURN", "modality:z", "a b", "a.b", "1a", "a-b", "$x_{1}$", "%type",
    "type", "half", "items", "train", "training", "values", "keys", "forward",
)  # fmt: skip


def test_modules_of_awkward_names_are_found_listed_and_loaded_by_them() -> None:
    modalities = [Modality(name, (2,), private_size=1) for name in (*AWKWARD_NAMES, "z_private")]
    vae, other = (MultimodalVAE(modalities, latent_size=LATENT) for _ in range(2))
    assert tuple(vae.model.likelihoods) == tuple(vae.model.likelihoods.keys()) == vae.names
    assert [name for name, _ in vae.model.likelihoods.items()] == list(vae.names)
    assert all(name in vae.model.likelihoods for name in vae.names)
    assert "absent" not in vae.model.likelihoods
    other.load_state_dict(vae.state_dict())
    batch = {name: torch.rand(ITEMS, 2) for name in vae.names}
    sites = poutine.trace(vae.model).get_trace(batch).observation_nodes
    assert sorted(map(site_modality, sites)) == sorted(vae.names)
    nodes = poutine.trace(vae.model).get_trace(batch).nodes
    assert all(torch.equal(nodes[modality_site(name)]["value"], batch[name]) for name in batch)


@pytest.mark.parametrize("name", ["kl", "loss", "elbo", "seconds", "label", "a_private", *AWKWARD_NAMES])
def test_modality_name_of_a_term_has_the_loss_of_any_other_name(name: str) -> None:
    batch = torch.rand(ITEMS, 4)
    losses = []
    for other in (name, "harmless"):
        torch.manual_seed(0)
        losses.append(loss_of(make([Modality(other, (4,))]), {other: batch}))
    assert torch.equal(*losses)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_modality_wrong_reconstruction_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="modality 'a': reconstruction_weight must be finite and not negative"):
        Modality("a", (4,), reconstruction_weight=weight)


def test_multimodal_vae_mixture_of_too_many_components_is_refused() -> None:
    many = [Modality(f"m{i}", (4,)) for i in range(13)]
    with pytest.raises(ValueError, match="'mwb' over 13 modalities is a mixture of 8,191 components"):
        make(many, "mwb")
    assert make(many[:12], "mwb").posterior({"m3": torch.rand(ITEMS, 4)}).num_components == 4095
    vae = make(many, "mwb", bound="component")
    batch = {f"m{i}": torch.rand(ITEMS, 4) for i in range(13)}
    assert loss_of(vae, batch).isfinite()
    assert vae.posterior(batch, "joint").batch_shape == (ITEMS,)
    with pytest.raises(ValueError, match="8,191 components"):
        vae.posterior(batch, "mixture")


def test_multimodal_vae_prior_and_weights_change_the_posterior(batch: dict[str, Tensor]) -> None:
    nothing = {**batch, "present": torch.zeros(ITEMS, 3, dtype=torch.bool)}
    prior = make(prior=(2.0, 0.5))
    assert (prior.posterior(nothing).mean == 2).all()
    assert (prior.model.prior().stddev == 0.5).all()
    torch.manual_seed(1)
    weighted = make(expert_weights=(0.0, 1.0, 0.0))
    torch.manual_seed(1)
    alone = make().posterior({"vector": batch["vector"]})
    torch.testing.assert_close(weighted.posterior(batch).mean, alone.mean, rtol=1e-5, atol=1e-6)


def test_decode_leading_dimensions_are_kept() -> None:
    vae = make()
    z = torch.randn(2, 4, LATENT)
    decoded = vae.decode(z)
    assert {n: v.shape for n, v in decoded.items()} == {
        "image": (2, 4, 3, 8, 8), "vector": (2, 4, 5), "label": (2, 4, 4)
    }  # fmt: skip
    torch.testing.assert_close(decoded["label"].sum(-1), torch.ones(2, 4))
    for name, value in vae.decode(z[1, 2]).items():
        torch.testing.assert_close(value, decoded[name][1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.75, "learned"])
def test_load_state_dict_other_model_has_the_same_loss(scale: float | str) -> None:
    modalities = [Modality("image", (3, 8, 8), scale=scale), Modality("vector", (5,), likelihood="normal", scale=scale)]
    batch = {"image": torch.rand(ITEMS, 3, 8, 8), "vector": torch.randn(ITEMS, 5)}
    one, other = (make(modalities, "mwb", expert_weights=(1.0, 2.0)) for _ in range(2))
    assert not torch.equal(loss_of(one, batch), loss_of(other, batch))
    other.load_state_dict(one.state_dict())
    assert torch.equal(loss_of(one, batch), loss_of(other, batch))


def test_batch_given_keeps_items_and_masks(batch: dict[str, Tensor]) -> None:
    mask = torch.arange(ITEMS) < 2
    whole = Batch(batch, {"image": mask, "vector": ~mask})
    assert len(whole) == ITEMS
    assert len(Batch({})) == 0
    part = whole.select(("image",))
    assert set(part.values) == set(part.present) == {"image"}
    assert (part.values["image"][2:] == 0).all()


def test_make_batch_images_of_one_shape_are_scaled_and_masked() -> None:
    generator = torch.Generator().manual_seed(0)
    images = {n: torch.randint(0, 256, (6, 1, 3, 2), generator=generator, dtype=torch.uint8) for n in "abc"}
    present = torch.ones(6, 3, dtype=torch.bool)
    present[4, 1] = False
    data = MultimodalDataset(images, torch.zeros(6, dtype=torch.int64), present, "noise", "train")
    index = torch.tensor([4, 0, 0])
    batch = make_batch(data, index)
    for column, (name, value) in enumerate(images.items()):
        there = present[index, column].reshape(-1, 1, 1, 1)
        assert torch.equal(batch.values[name], (value[index].float() / 255) * there)
    unlike = dict(images, b=images["b"][..., :1])
    mixed = make_batch(MultimodalDataset(unlike, data.labels, present, "noise", "train"), index)
    assert torch.equal(mixed.values["a"], batch.values["a"])
    assert mixed.values["b"].shape == (3, 1, 3, 1)
