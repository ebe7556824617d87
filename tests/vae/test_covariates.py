"""Covariates of a MultimodalVAE: what decoders and encoders see of them, and what stands for unknown categories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.modality_spec import check_modality_name
from pyro_mmvae.networks import GroupedNetwork, NetworkOptions
from pyro_mmvae.vae import register_decoder
from pyro_mmvae.vae.covariates import Covariates
from pyro_mmvae.vae.custom_networks import DECODERS
from pyro_mmvae.vae.trial import try_custom_parts

LATENT, ITEMS = 3, 5
CATEGORIES = {"donor": ("A", "B", "C"), "plate": ("1", "2")}
SIZE = 5


def make(*modalities: Modality, covariates: Any = CATEGORIES, **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    network = NetworkOptions(**{"width": 4, "hidden": 8, "depth": 1} | options)
    return MultimodalVAE(modalities, LATENT, "wb", network=network, covariates=covariates)


def vector(name: str, **options: Any) -> Modality:
    return Modality(name, (4,), **options)


def known(vae: MultimodalVAE, donor: str = "B", plate: str = "1", items: int = ITEMS) -> Tensor:
    return vae.covariate_vector({"donor": [donor] * items, "plate": plate})


def set_frequencies(vae: MultimodalVAE) -> Tensor:
    values = torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1])
    vae.set_covariate_frequencies(values)
    return values


# ----- the class -----------------------------------------------------------------------------------------------------


def test_set_frequencies_counts_become_shares_per_covariate() -> None:
    covariates = Covariates(CATEGORIES)
    torch.testing.assert_close(covariates.frequencies, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]))
    covariates.set_frequencies(torch.tensor([6, 3, 1, 0, 7]))
    torch.testing.assert_close(covariates.frequencies, torch.tensor([0.6, 0.3, 0.1, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 1.0], r"must have shape \(5,\), one per category of 'donor', 'plate', got \(2,\)"),
        ([1.0, -1.0, 1.0, 1.0, 1.0], "finite and not negative"),
        ([1.0, torch.nan, 1.0, 1.0, 1.0], "finite and not negative"),
        ([1.0, 1.0, 1.0, 0.0, 0.0], "covariate 'plate' must be known for some training item"),
    ],
)
def test_set_frequencies_wrong_values_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Covariates(CATEGORIES).set_frequencies(torch.tensor(values))


def test_encode_names_give_blocks_in_the_order_of_the_model() -> None:
    covariates = Covariates(CATEGORIES)
    assert covariates.encode({"plate": "2", "donor": "B"}).tolist() == [0, 1, 0, 0, 1]
    assert covariates.encode({"plate": "2"}).tolist() == [0, 0, 0, 0, 1]
    assert covariates.encode({"donor": ["C", "A"], "plate": "1"}).tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({"sex": "f"}, r"covariates of the model \(donor, plate\), got 'sex'"),
        ({"donor": "Z"}, "covariate 'donor' must be one of A, B, C, got 'Z'"),
        ({"donor": ["A", "A"], "plate": ["1"]}, r"one category per item, got sequences of \[1, 2\] items"),
    ],
)
def test_encode_unknown_names_are_listed(categories: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Covariates(CATEGORIES).encode(categories)


@pytest.mark.parametrize(
    ("categories", "error", "message"),
    [
        ({"donor": ()}, ValueError, "covariate 'donor' must have one or more different categories"),
        ({"donor": ("A", "A")}, ValueError, "one or more different categories"),
        ({"donor": "AB"}, TypeError, "covariate 'donor' must have a sequence of strings"),
        ({"donor": 3}, TypeError, "covariate 'donor' must have a sequence of strings"),
        (["donor"], TypeError, "covariates must be a mapping"),
    ],
)
def test_multimodal_vae_wrong_categories_are_refused(categories: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(vector("a"), covariates=categories)


def test_fill_block_of_zeros_becomes_frequencies_of_that_covariate_only() -> None:
    covariates = Covariates(CATEGORIES)
    covariates.set_frequencies(torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1]))
    values = torch.tensor([[0.0, 0, 0, 0, 1], [0, 1, 0, 0, 0]])
    filled = covariates.fill(values, torch.Size((3, 2)), torch.zeros(()))
    expected = torch.tensor([[0.5, 0.3, 0.2, 0, 1], [0, 1, 0, 0.9, 0.1]]).expand(3, 2, 5)
    torch.testing.assert_close(filled, expected)


def test_draw_categories_follow_the_frequencies() -> None:
    covariates = Covariates(CATEGORIES)
    covariates.set_frequencies(torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1]))
    drawn = covariates.draw(4000, torch.Generator().manual_seed(0))
    assert drawn.sum(-1).eq(2).all()
    torch.testing.assert_close(drawn.mean(0), covariates.frequencies, atol=0.03, rtol=0)
    assert Covariates().draw(3, torch.Generator()) is None


# ----- batches -------------------------------------------------------------------------------------------------------


def test_batch_covariates_survive_select_rows_and_to() -> None:
    covariates = torch.eye(3)
    batch = Batch({"a": torch.rand(3, 4)}, covariates=covariates)
    assert Batch.of({"a": torch.rand(3, 4), "covariates": covariates}, ("a",)).covariates is covariates
    for other in (batch.select(("a",)), batch.select(()), batch.to("cpu")):
        assert torch.equal(other.covariates, covariates)
    assert torch.equal(batch.rows(slice(1, 3)).covariates, covariates[1:])
    assert Batch({}, covariates=covariates.long()).covariates.is_floating_point()


@pytest.mark.parametrize(
    ("covariates", "error", "message"),
    [
        (torch.zeros(2, 5), ValueError, r"covariates must have shape \(3, covariate\), got \(2, 5\)"),
        (torch.zeros(3), ValueError, r"covariates must have shape \(3, covariate\), got \(3,\)"),
        ([1, 2, 3], TypeError, r"covariates must be a tensor \(item, covariate\), got list"),
    ],
)
def test_batch_wrong_covariates_are_refused(covariates: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Batch({"a": torch.rand(3, 4)}, covariates=covariates)


def test_check_modality_name_of_the_covariates_of_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="'present' and 'covariates', got 'covariates'"):
        check_modality_name("covariates")


def test_guide_and_decode_wrong_number_of_columns_are_refused() -> None:
    vae, plain = make(vector("a")), make(vector("a"), covariates=None)
    batch = {"a": torch.rand(ITEMS, 4), "covariates": torch.ones(ITEMS, 2)}
    with pytest.raises(ValueError, match=r"must have 5 columns, those of 'donor' of 3 categories, .*, got 2"):
        vae.guide(batch)
    with pytest.raises(ValueError, match="must be left out for a model without covariates, got 2 columns"):
        plain.guide(batch)
    with pytest.raises(ValueError, match="must be left out for a model without covariates"):
        plain.decode(torch.zeros(ITEMS, LATENT), covariates=torch.ones(ITEMS, 2))
    with pytest.raises(ValueError, match=r"must broadcast to \(5, 5\), got \(4, 5\)"):
        vae.decode(torch.zeros(ITEMS, LATENT), covariates=torch.ones(4, SIZE))


# ----- decoders ------------------------------------------------------------------------------------------------------


def test_decode_linear_decoder_adds_the_weights_of_the_category() -> None:
    vae = make(vector("a", likelihood="normal"), depth=0)
    layer = vae.model.decoders.networks[0].body[0]
    weight, bias = layer.weight[0], layer.bias[0, 0]
    z = torch.randn(2, ITEMS, LATENT)
    covariates = known(vae).requires_grad_()
    parameters = vae.model.parameters_given(z, ["a"], None, covariates)["a"]
    expected = z @ weight[:LATENT] + weight[LATENT + 1] + weight[LATENT + 3] + bias
    torch.testing.assert_close(parameters, expected)
    parameters.sum().backward()
    gradient = 2 * weight[LATENT:].sum(-1)
    torch.testing.assert_close(covariates.grad, gradient.expand(ITEMS, SIZE))


def test_decode_unknown_category_is_decoded_by_the_frequencies() -> None:
    vae = make(vector("a", likelihood="normal"), Modality("i", (1, 8, 8)))
    frequencies, z = set_frequencies(vae), torch.randn(ITEMS, LATENT)
    unknown = vae.decode(z)
    for covariates in (frequencies, torch.zeros(ITEMS, SIZE), {}):
        for name, mean in vae.decode(z, covariates=covariates).items():
            torch.testing.assert_close(mean, unknown[name])
    for name, mean in vae.decode(z, covariates={"donor": "C"}).items():
        mixed = vae.decode(z, covariates=torch.tensor([0, 0, 1, 0.9, 0.1]))[name]
        torch.testing.assert_close(mean, mixed)
        assert not torch.allclose(mean, unknown[name])


def test_decode_private_latents_follow_the_covariates() -> None:
    vae = make(vector("a", private_size=2, likelihood="normal"), depth=0)
    layer = vae.model.decoders.networks[0].body[0]
    z, u, covariates = torch.randn(ITEMS, LATENT), torch.randn(ITEMS, 2), known(vae)
    parameters = vae.model.parameters_given(z, ["a"], {"a": u}, covariates)["a"]
    torch.testing.assert_close(parameters, torch.cat([z, covariates, u], -1) @ layer.weight[0] + layer.bias[0])


def test_register_decoder_latent_size_includes_the_categories() -> None:
    sizes = []

    @register_decoder("recorded")
    def recorded(shape: tuple[int, ...], latent_size: int, options: Any, *, private_size: int = 0) -> nn.Module:
        sizes.append(latent_size)
        return nn.Linear(latent_size, shape[0])

    try:
        vae = make(vector("a", decoder="recorded"))
    finally:
        DECODERS.unregister("recorded")
    assert sizes == [LATENT + SIZE]
    try_custom_parts(vae, Batch({"a": torch.rand(2, 4)}))
    assert vae.decode(torch.zeros(ITEMS, LATENT), covariates={"donor": "A"})["a"].shape == (ITEMS, 4)


# ----- encoders ------------------------------------------------------------------------------------------------------


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2 * LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.linear(x).chunk(2, -1)
        return loc, log_scale.exp()


MODALITIES: dict[str, tuple[Callable[[], Modality], bool]] = {
    "vector": (lambda: Modality("m", (4,)), True),
    "counts": (lambda: Modality("m", (4,), data_type="counts"), True),
    "binary": (lambda: Modality("m", (4,), data_type="binary"), True),
    "small image": (lambda: Modality("m", (1, 4, 4)), False),
    "image": (lambda: Modality("m", (1, 8, 8)), False),
    "text of odd length": (lambda: Modality("m", (5,), likelihood="categorical", classes=3), False),
    "custom encoder": (lambda: Modality("m", (4,), encoder=_Linear()), False),
}


@pytest.mark.parametrize("kind", MODALITIES)
def test_experts_only_encoders_of_vectors_counts_and_binary_see_covariates(kind: str) -> None:
    modality, is_conditioned = MODALITIES[kind][0](), MODALITIES[kind][1]
    vae = make(modality)
    values = torch.ones(ITEMS, *modality.shape, dtype=torch.int64 if kind.startswith("text") else torch.float32)
    locs = [vae.guide.experts({"m": values, "covariates": known(vae, donor)}).loc for donor in "AB"]
    assert torch.allclose(*locs) is not is_conditioned
    means = [vae.decode(locs[0][:, 0], covariates={"donor": donor})["m"] for donor in "AB"]
    assert not torch.allclose(*means)


def test_experts_unknown_category_is_encoded_by_the_frequencies() -> None:
    vae, values = make(vector("a")), torch.rand(ITEMS, 4)
    frequencies = set_frequencies(vae).expand(ITEMS, SIZE)
    expected = vae.guide.experts({"a": values, "covariates": frequencies})
    for batch in ({"a": values}, {"a": values, "covariates": torch.zeros(ITEMS, SIZE)}):
        torch.testing.assert_close(vae.guide.experts(batch).loc, expected.loc)


def test_group_modalities_image_and_vector_of_one_shape_are_apart_only_with_covariates() -> None:
    shape = (1, 4, 4)
    modalities = [
        Modality("image", shape, likelihood="laplace", scale=1.0),
        Modality("vector", shape, data_type="vector", likelihood="laplace", scale=1.0),
        Modality("other", shape, data_type="vector", likelihood="laplace", scale=1.0),
    ]
    assert make(*modalities, covariates=None).guide.encode.groups == (("image", "vector", "other"),)
    vae = make(*modalities)
    assert vae.guide.encode.groups == (("image",), ("vector", "other"))
    batch = {name: torch.rand(ITEMS, *shape) for name in vae.names}
    locs = [vae.guide.experts({**batch, "covariates": known(vae, donor)}).loc for donor in "AB"]
    assert [torch.allclose(*(loc[:, m] for loc in locs)) for m in range(3)] == [True, False, False]


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize("names", [("b",), ("a", "c"), ("c",)])
def test_experts_absent_modalities_of_a_group_leave_the_others_unchanged(names: tuple[str, ...], private: int) -> None:
    vae = make(*(vector(name, private_size=private) for name in "abc"))
    assert vae.guide.encode.groups == (("a", "b", "c"),)
    values, covariates = {name: torch.rand(ITEMS, 4) for name in "abc"}, known(vae, "C")
    everything = vae.guide.experts({**values, "covariates": covariates})
    some = vae.guide.experts({**{n: values[n] for n in names}, "covariates": covariates})
    columns = [vae.names.index(name) for name in names]
    torch.testing.assert_close(some.loc[:, columns], everything.loc[:, columns])
    torch.testing.assert_close(some.scale[:, columns], everything.scale[:, columns])
    other = vae.guide.experts({**{n: values[n] for n in names}, "covariates": known(vae, "A")})
    assert not torch.allclose(some.loc[:, columns], other.loc[:, columns])


def test_encoder_output_does_not_depend_on_the_covariates_of_other_items() -> None:
    vae, values = make(vector("a"), vector("b")), {name: torch.rand(ITEMS, 4) for name in "ab"}
    mixed = vae.covariate_vector({"donor": list("ABCAB"), "plate": list("12211")})
    together = vae.guide.experts({**values, "covariates": mixed}).loc
    for row in range(ITEMS):
        alone = {name: value[row : row + 1] for name, value in values.items()}
        torch.testing.assert_close(
            vae.guide.experts({**alone, "covariates": mixed[row : row + 1]}).loc[0], together[row]
        )


# ----- the model and its training ------------------------------------------------------------------------------------


def batch_of(vae: MultimodalVAE) -> dict[str, Tensor]:
    values = {
        "a": torch.rand(ITEMS, 4),
        "k": torch.poisson(torch.full((ITEMS, 6), 3.0)),
        "i": torch.rand(ITEMS, 1, 8, 8),
    }
    present = torch.tensor([[True, True, True], [True, False, True]]).repeat(3, 1)[:ITEMS]
    return {**values, "present": present, "covariates": known(vae)}


def full_model() -> MultimodalVAE:
    return make(vector("a"), Modality("k", (6,), data_type="counts"), Modality("i", (1, 8, 8)))


def test_elbo_gradients_reach_the_weights_of_the_seen_categories_only() -> None:
    vae = full_model()
    Trace_ELBO()(vae.model, vae.guide)(batch_of(vae)).backward()
    first = {
        "encoder": vae.guide.encode.networks[1].body[0].weight.grad[0, -SIZE:],
        "decoder": vae.model.decoders.networks[1].body[0].weight.grad[0, LATENT:],
    }
    for gradient in first.values():
        assert gradient.isfinite().all()
        assert [bool(row.abs().sum() > 0) for row in gradient] == [False, True, False, True, False]


def test_elbo_vectorized_particles_share_the_covariates_of_their_items() -> None:
    vae = full_model()
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo(vae.model, vae.guide)(batch_of(vae))
    loss.backward()
    assert loss.isfinite()
    gradient = vae.model.decoders.networks[1].body[0].weight.grad[0, LATENT:]
    assert [bool(row.abs().sum() > 0) for row in gradient] == [False, True, False, True, False]


def test_model_drawn_modalities_have_the_categories_of_the_batch() -> None:
    vae = make(vector("a", likelihood="normal", scale=1e-3))
    with torch.no_grad():
        for parameter in vae.model.decoders.parameters():
            parameter.zero_()
        last, first = vae.model.decoders.networks[0].body[-1], vae.model.decoders.networks[0].body[0]
        first.weight[0, LATENT, 0] = 5.0  # donor A alone raises the first hidden unit
        last.weight[0, 0] = 1.0
    covariates = vae.covariate_vector({"donor": ["A", "B"], "plate": "1"})
    trace = poutine.trace(vae.model).get_trace(Batch({}, covariates=covariates), num_items=2, generate=True)
    values = trace.nodes["a"]["value"]
    assert values[0].mean() > 1
    assert values[1].abs().mean() < 0.1


def test_state_dict_without_covariates_is_unchanged_and_with_them_holds_the_frequencies() -> None:
    plain, vae = make(vector("a"), covariates=None), make(vector("a"))
    assert not [name for name in plain.state_dict() if "covariates" in name]
    assert make(vector("a"), covariates={}).state_dict().keys() == plain.state_dict().keys()
    assert vae.covariates == CATEGORIES
    assert plain.covariates == {}
    frequencies, other = set_frequencies(vae), make(vector("a"))
    other.load_state_dict(vae.state_dict())
    torch.testing.assert_close(other.model.covariates.frequencies, frequencies)
    assert other.guide.encode.covariates is other.model.covariates


def test_grouped_network_covariate_size_is_0_by_default() -> None:
    encoders = make(vector("a"), Modality("i", (1, 8, 8))).guide.encode.networks
    assert [network.covariate_size for network in encoders] == [SIZE, 0]
    assert GroupedNetwork((4,), LATENT).covariate_size == 0
