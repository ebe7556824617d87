"""Encoders, decoders and likelihoods that users define, as objects and under registered names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import (
    Batch,
    Likelihood,
    Modality,
    MultimodalVAE,
    NetworkOptions,
    load,
    register_decoder,
    register_encoder,
    register_likelihood,
    train,
)
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import Trainer
from pyro_mmvae.vae.trial import try_custom_parts

ITEMS, LATENT = 6, 3


class StudentT(Likelihood):
    """A likelihood with a learned scale."""

    def __init__(self, shape: tuple[int, ...], scale: float | str = 1.0) -> None:
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.tensor(0.0 if scale == "learned" else math.log(scale)))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> Any:
        return dist.StudentT(4.0, parameters, self.log_scale.exp()).to_event(len(self.shape))


class HeteroscedasticNormal(Likelihood):
    """A likelihood whose parameters are of another shape than its values."""

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (2, *self.shape)

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> Any:
        loc, log_scale = parameters.unbind(-1 - len(self.shape))
        return dist.Normal(loc, log_scale.exp()).to_event(len(self.shape))


class Encoder(nn.Module):
    """A linear encoder of flattened items, with outputs of any sizes."""

    def __init__(self, shape: tuple[int, ...], *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.linear = nn.Linear(math.prod(shape), 2 * sum(sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = self.linear(x.flatten(1)).split([size for size in self.sizes for _ in range(2)], -1)
        return tuple(part.exp() if number % 2 else part for number, part in enumerate(parts))


class Decoder(nn.Module):
    """A linear decoder that takes latents with one leading dimension only."""

    def __init__(self, latent: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.shape = nn.Linear(latent, math.prod(shape)), shape

    def forward(self, z: Tensor) -> Tensor:
        assert z.dim() == 2
        return self.linear(z).unflatten(-1, self.shape)


def make(*modalities: Modality, **options: Any) -> MultimodalVAE:
    network = NetworkOptions(width=4, hidden=8)
    return MultimodalVAE(
        [*modalities, Modality("b", (4,))], LATENT, **{"bound": "mixture", "network": network} | options
    )


def custom(private_size: int = 0) -> Modality:
    sizes = (LATENT, private_size) if private_size else (LATENT,)
    return Modality(
        "a",
        (4,),
        encoder=Encoder((4,), *sizes),
        decoder=Decoder(LATENT + private_size, (4,)),
        likelihood=StudentT((4,)),
        private_size=private_size,
    )


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"a": torch.randn(ITEMS, 4), "b": torch.randn(ITEMS, 4)}


@pytest.mark.parametrize("private_size", [0, 2])
@pytest.mark.parametrize("present", [False, True])
def test_multimodal_vae_modules_have_the_elbo_by_hand(
    batch: dict[str, Tensor], private_size: int, present: bool
) -> None:
    modality = custom(private_size)
    vae, data = make(modality, aggregation="poe"), dict(batch)
    mask = torch.arange(ITEMS) > 1
    if present:
        data["present"] = torch.stack([mask, torch.ones_like(mask)], -1)
    torch.manual_seed(3)
    loss = Trace_ELBO()(vae.model, vae.guide)(data)
    torch.manual_seed(3)
    trace = pyro.poutine.trace(vae.guide).get_trace(data)
    z = trace.nodes["z"]["value"]
    u = trace.nodes["a_private"]["value"] if private_size else z[:, :0]
    a = dist.StudentT(4.0, modality.decoder(torch.cat([z, u], -1)), 1.0).log_prob(batch["a"]).sum(-1)
    likelihood_b = vae.model.likelihoods["b"]
    b = likelihood_b(vae.model.decoders(z, ["b"])["b"]).log_prob(batch["b"])
    kl = trace.log_prob_sum() - dist.Normal(0.0, 1.0).log_prob(torch.cat([z, u], -1)).sum()
    torch.testing.assert_close(loss, kl - (a * mask if present else a).sum() - b.sum())
    loc, scale, *private = modality.encoder(batch["a"])
    experts = vae.guide.experts(data)
    rows = mask if present else slice(None)
    torch.testing.assert_close(experts.loc[rows, 0], loc[rows])
    torch.testing.assert_close(experts.scale[rows, 0], scale[rows])
    if private:
        torch.testing.assert_close(vae.private_posterior(data)["a"].mean[rows], private[0][rows])


@pytest.mark.parametrize("private_size", [0, 2])
def test_multimodal_vae_modules_are_trained_and_restored(batch: dict[str, Tensor], private_size: int) -> None:
    vae, other = make(custom(private_size)), make(custom(private_size))
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    parts = [m for m in vae.modalities[:1] for m in (m.encoder, m.decoder, m.likelihood)]
    assert {id(p) for part in parts for p in part.parameters()} <= {id(p) for p in vae.parameters()}
    elbo = Trace_ELBO()(vae.model, vae.guide)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = elbo(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not [name for name, value in vae.named_parameters() if torch.equal(value, before[name])]
    other.load_state_dict(vae.state_dict())
    z, private = torch.randn(2, 5, LATENT), {"a": torch.randn(2, 5, private_size)} if private_size else None
    assert torch.equal(vae.decode(z, private=private)["a"], other.decode(z, private=private)["a"])
    assert vae.decode(z, private=private)["a"].shape == (2, 5, 4)


def test_multimodal_vae_shared_module_is_one(batch: dict[str, Tensor]) -> None:
    encoder = Encoder((4,), LATENT)
    vae = MultimodalVAE([Modality(name, (4,), encoder=encoder) for name in "ab"], LATENT)
    experts = vae.guide.experts({"a": batch["a"], "b": batch["a"]})
    assert torch.equal(experts.loc[:, 0], experts.loc[:, 1])
    assert len(list(vae.guide.encode.networks.parameters())) == len(list(encoder.parameters()))


def test_multimodal_vae_custom_encoder_with_built_in_decoder_and_full_covariance(batch: dict[str, Tensor]) -> None:
    class Full(Encoder):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            loc, scale = super().forward(x)
            return loc, torch.diag_embed(scale)

    options = NetworkOptions(covariance="full", hidden=8)
    vae = make(Modality("a", (4,), encoder=Full((4,), LATENT)), network=options, aggregation="wb")
    assert vae.guide.encode.groups == (("a",), ("b",))
    assert vae.guide.experts(batch).scale_tril.shape == (ITEMS, 2, LATENT, LATENT)
    assert Trace_ELBO()(vae.model, vae.guide)(batch).isfinite()
    assert type(vae.model.decoders.networks[0]) is type(vae.model.decoders.networks[1])
    plain = make(Modality("a", (4,), encoder=Encoder((4,), LATENT)), network=options, aggregation="wb")
    message = r"must return loc \(6, 3\), scale_tril \(6, 3, 3\), got a tuple of \(6, 3\), \(6, 3\)"
    with pytest.raises(ValueError, match=message):
        plain.guide(batch)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Encoder((4,), 2), r"the encoder must return loc \(6, 3\), scale \(6, 3\), got a tuple of \(6, 2\), \(6, 2\)"),
        (nn.Linear(4, 6), r"the encoder must return loc \(6, 3\), scale \(6, 3\), got \(6, 6\)"),
        (
            Encoder((4,), 3, 2),
            r"the encoder must return loc \(6, 3\), scale \(6, 3\), got a tuple of \(6, 3\), .*\(6, 2\)",
        ),
    ],
)
def test_custom_encoder_wrong_output_is_refused(batch: dict[str, Tensor], encoder: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"modality 'a': {message}"):
        make(Modality("a", (4,), encoder=encoder)).guide(batch)


def test_custom_encoder_negative_scale_is_refused(batch: dict[str, Tensor]) -> None:
    class Negative(Encoder):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            loc, scale = super().forward(x)
            return loc, -scale

    with pytest.raises(ValueError, match="modality 'a': the encoder must return a positive scale, got -"):
        make(Modality("a", (4,), encoder=Negative((4,), LATENT))).guide(batch)


def test_custom_encoder_without_private_outputs_is_refused(batch: dict[str, Tensor]) -> None:
    vae = make(Modality("a", (4,), encoder=Encoder((4,), LATENT), private_size=2))
    with pytest.raises(
        ValueError, match=r"scale \(6, 3\), private loc \(6, 2\), private scale \(6, 2\), got a tuple of"
    ):
        vae.guide(batch)


def test_custom_decoder_wrong_output_is_refused(batch: dict[str, Tensor]) -> None:
    vae = make(Modality("a", (4,), decoder=nn.Linear(LATENT, 5)))
    with pytest.raises(ValueError, match=r"modality 'a': the decoder must return parameters \(6, 4\), got \(6, 5\)"):
        vae.model(batch)


def test_likelihood_wrong_event_shape_is_refused(batch: dict[str, Tensor]) -> None:
    class Flat(StudentT):
        def forward(self, parameters: Tensor, observed: Tensor | None = None) -> Any:
            return dist.StudentT(4.0, parameters, 1.0)

    message = r"modality 'a': .* event shape \(4,\), got \(\); to_event\(1\) may be missing"
    with pytest.raises(ValueError, match=message):
        make(Modality("a", (4,), likelihood=Flat((4,)))).model(batch)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"likelihood": StudentT((5,))}, ValueError, r"the shape of the likelihood must be \(4,\), got \(5,\)"),
        (
            {"likelihood": dist.Normal},
            TypeError,
            "modality 'a': likelihood must be a name or a Likelihood, got DistributionMeta",
        ),
        ({"encoder": len}, TypeError, "modality 'a': encoder must be a name or a Module, got builtin_function_or"),
        ({"decoder": 3}, TypeError, "modality 'a': decoder must be a name or a Module, got int"),
        ({"encoder": "mine"}, ValueError, "modality 'a': unknown encoder 'mine'"),
        ({"decoder": "mine"}, ValueError, "modality 'a': unknown decoder 'mine'"),
        ({"likelihood": "norma"}, ValueError, "modality 'a': unknown likelihood 'norma', did you mean 'normal'"),
        ({"likelihood": StudentT((4,)), "scale": 0.5}, ValueError, "scale must be left out .* StudentT, got 0.5"),
        ({"likelihood": StudentT((4,)), "output": "sigmoid"}, ValueError, "output must be left out .* got 'sigmoid'"),
    ],
)
def test_modality_wrong_part_is_refused(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Modality("a", (4,), **fields))


def test_likelihood_parameters_of_another_shape_have_networks_that_fit() -> None:
    vae = make(Modality("a", (3, 8, 8), likelihood=HeteroscedasticNormal((3, 8, 8))))
    batch = {"a": torch.rand(ITEMS, 3, 8, 8), "b": torch.randn(ITEMS, 4)}
    assert Trace_ELBO()(vae.model, vae.guide)(batch).isfinite()
    assert vae.decode(vae.guide(batch))["a"].shape == (ITEMS, 3, 8, 8)


def test_trainer_steps_with_custom_parts(toy_config: Callable[..., Config], batch: dict[str, Tensor]) -> None:
    vae = make(custom(), bound="component", aggregation="mwb")
    trainer = Trainer(vae, toy_config().train, total_steps=3)
    from pyro_mmvae.training import local_pyro

    with local_pyro():
        losses = [float(trainer.step(Batch(batch)).detach()) for _ in range(3)]
    assert all(map(math.isfinite, losses))


@pytest.mark.usefixtures("registered")
def test_train_registered_parts_are_saved_and_loaded(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    seen: list[Any] = []

    @register_encoder("linear_encoder")
    def make_encoder(
        shape: tuple[int, ...], latent_size: int, options: NetworkOptions, *, private_size: int
    ) -> nn.Module:
        seen.append((shape, latent_size, options.width, private_size))
        return Encoder(shape, latent_size, private_size)

    @register_decoder("linear_decoder")
    def make_decoder(
        shape: tuple[int, ...], latent_size: int, options: NetworkOptions, *, private_size: int
    ) -> nn.Module:
        return Decoder(latent_size + private_size, shape)

    register_likelihood("student_t", data_types=("image",), options=("scale",))(StudentT)
    parts = {"encoder": "linear_encoder", "decoder": "linear_decoder", "likelihood": "student_t"}
    modalities = {"m1": {**parts, "private_size": 2, "width": 6, "scale": 0.5}}
    run = train(toy_config(model__modalities=modalities, train__epochs=1), tmp_path / "run", progress=False)
    assert set(seen) == {((3, 8, 8), 4, 6, 2)}
    assert isinstance(run.model.likelihoods["m1"], StudentT)
    again = load(tmp_path / "run", device="cpu")
    assert again.modality_specs["m1"].encoder == "linear_encoder"
    z, private = torch.randn(2, 4), {"m1": torch.randn(2, 2)}
    for name, value in run.decode(z, private).items():
        assert torch.equal(value, again.decode(z, private)[name])
    state = run.vae.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.vae.state_dict().items())


class Failing(nn.Module):
    """A network that was built for items of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class FlatStudentT(StudentT):
    """A likelihood without event dimensions."""

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> Any:
        return dist.StudentT(4.0, parameters, 1.0)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"encoder": "small_encoder"},
            r"modality 'm1': the encoder must return loc \(1, 4\), scale \(1, 4\), got",
        ),
        (
            {"decoder": "small_decoder"},
            r"modality 'm1': the decoder must return parameters \(2, 3, 8, 8\), got \(2",
        ),
        (
            {"encoder": "failing"},
            r"modality 'm1': encoder Failing failed on items of shape \(3, 8, 8\): Runtime",
        ),
        (
            {"decoder": "failing"},
            r"modality 'm1': decoder Failing failed on latents of shape \(4,\): RuntimeError: .*mat",
        ),
        (
            {"likelihood": "flat"},
            r"modality 'm1': the likelihood must return .* event shape \(3, 8, 8\), got \(\)",
        ),
    ],
)
def test_train_wrong_custom_part_is_refused_before_the_run_exists(
    toy_config: Callable[..., Config], tmp_path: Path, part: dict[str, str], message: str
) -> None:
    register_encoder("small_encoder")(lambda shape, latent_size, options, *, private_size: Encoder(shape, 2))
    register_encoder("failing")(lambda shape, latent_size, options, *, private_size: Failing())
    register_decoder("small_decoder")(lambda shape, latent_size, options, *, private_size: Decoder(latent_size, (5,)))
    register_decoder("failing")(lambda shape, latent_size, options, *, private_size: Failing())
    register_likelihood("flat", data_types=("image",))(FlatStudentT)
    with pytest.raises(ValueError, match=message) as error:
        train(toy_config(model__modalities={"m1": part}), tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_try_custom_parts_changes_neither_modes_nor_running_statistics(batch: dict[str, Tensor]) -> None:
    encoder = nn.Sequential(nn.BatchNorm1d(4), Encoder((4,), LATENT))
    encoder[0].eval()
    vae = MultimodalVAE([Modality("a", (4,), encoder=encoder)], latent_size=LATENT)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    try_custom_parts(vae, Batch({"a": torch.randn(2, 4)}))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert (vae.training, encoder[0].training, encoder[1].training) == (True, False, True)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__likelihood": "norml"}, "model.likelihood: unknown likelihood 'norml', did you mean 'normal'"),
        ({"model__network__name": "cnv"}, "model.network.name: unknown network 'cnv'"),
        ({"model__modalities": {"m0": {"network": "cnv"}}}, "model.modalities.m0: unknown network 'cnv'"),
        ({"model__modalities": {"m0": {"encoder": "linear"}}}, "model.modalities.m0: unknown encoder 'linear'"),
        ({"model__modalities": {"m0": {"likelihood": "x"}}}, "model.modalities.m0: unknown likelihood 'x'"),
    ],
)
def test_train_unknown_name_is_refused_with_its_key(
    toy_config: Callable[..., Config], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(toy_config(**settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("registered")
def test_register_wrong_factory_is_refused() -> None:
    register_encoder("nothing")(lambda shape, latent_size, options, *, private_size: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(
        TypeError, match=r"the factory of encoder 'nothing' must return a torch.nn.Module, got NoneType"
    ):
        make(Modality("a", (4,), encoder="nothing"))
    register_likelihood("nothing")(lambda shape: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="the factory of likelihood 'nothing' must return a Likelihood, got NoneType"):
        make(Modality("a", (4,), likelihood="nothing"))
    with pytest.raises(ValueError, match="likelihood 'normal' is already registered"):
        register_likelihood("normal")(StudentT)
    with pytest.raises(ValueError, match="options of likelihood 'x' must be some of scale, output, .*, got 'df'"):
        register_likelihood("x", options=("df",))


@pytest.mark.usefixtures("registered")
def test_register_factory_with_other_arguments_is_refused() -> None:
    register_encoder("narrow")(lambda shape: nn.Linear(1, 1))  # type: ignore[arg-type,misc]
    with pytest.raises(TypeError, match=r"the factory of encoder 'narrow' must take \(shape, latent_size, options"):
        MultimodalVAE([Modality("x", (4,), encoder="narrow")], latent_size=2)
