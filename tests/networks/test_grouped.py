"""Grouped linear layers, and the base classes of networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae.networks import (
    ConvDecoder,
    ConvEncoder,
    GroupedDecoder,
    GroupedLinear,
    GroupedNetwork,
    MLPDecoder,
    NetworkOptions,
)
from pyro_mmvae.networks.grouped import select_groups
from pyro_mmvae.networks.onednn import Linear

LATENT = 5


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_linear_applies_each_layer_to_its_group(groups: int) -> None:
    layer = GroupedLinear(groups, 6, 3)
    x = torch.randn(5, groups, 6)
    expected = torch.stack([x[:, g] @ layer.weight[g] + layer.bias[g, 0] for g in range(groups)], 1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_linear_initial_weights_have_the_distribution_of_torch_linear(groups: int) -> None:
    grouped, plain = GroupedLinear(groups, 100, 400), nn.Linear(100, 400)
    for parameter, reference in ((grouped.weight, plain.weight), (grouped.bias, plain.bias)):
        assert parameter.abs().max() <= 0.1
        assert parameter.abs().max() > 0.095
        assert parameter.mean().abs() < 0.01
        for group in parameter:
            assert group.std().item() == pytest.approx(reference.std().item(), rel=0.1)
    assert len(set(grouped.weight[:, 0, 0].tolist())) == groups


@pytest.mark.parametrize(("decoder_type", "shape"), [(ConvDecoder, (1, 8, 8)), (MLPDecoder, (9,))])
def test_decoder_output_takes_both_signs(decoder_type: type[GroupedDecoder], shape: tuple[int, ...]) -> None:
    out = decoder_type(shape, LATENT, NetworkOptions(width=4))(10 * torch.randn(50, LATENT))
    assert out.min() < 0 < out.max()


def test_with_groups_keeps_the_arguments_and_changes_the_groups() -> None:
    options = NetworkOptions(width=4, hidden=8, norm="group")
    network = ConvEncoder((3, 8, 8), LATENT, options, groups=3, private_size=2)
    other = network.with_groups(2)
    assert type(other) is ConvEncoder
    assert (other.groups, other.shape, other.latent_size, other.private_size) == (2, (3, 8, 8), LATENT, 2)
    assert other.options is options
    per_group = {name: value.numel() / 3 for name, value in network.state_dict().items()}
    assert {name: value.numel() / 2 for name, value in other.state_dict().items()} == per_group


class Scaled(GroupedNetwork):
    """A network whose constructor takes one more argument."""

    def __init__(self, shape: tuple[int, ...], latent_size: int, factor: float, groups: int = 1) -> None:
        super().__init__(shape, latent_size, groups=groups)
        self.factor = factor
        self.weight = nn.Parameter(torch.arange(groups, dtype=torch.float32))

    def with_groups(self, groups: int) -> Scaled:
        return Scaled(self.shape, self.latent_size, self.factor, groups)

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * self.weight.unsqueeze(-1) * values


def test_run_groups_uses_an_overridden_with_groups() -> None:
    network, values = Scaled((2,), LATENT, 3.0, groups=3), torch.ones(4, 1, 2)
    assert torch.equal(network.run_groups([2], values), torch.full((4, 1, 2), 6.0))


def test_run_groups_follows_training_mode() -> None:
    class Mode(Scaled):
        def with_groups(self, groups: int) -> Mode:
            return Mode(self.shape, self.latent_size, self.factor, groups)

        def forward(self, values: Tensor) -> Tensor:
            return torch.full_like(values, float(self.training))

    network = Mode((2,), LATENT, 3.0, groups=3)
    for training in (False, True):
        assert (network.train(training).run_groups([1], torch.ones(1, 1, 2)) == float(training)).all()


def test_select_groups_returns_the_parts_in_order() -> None:
    value = torch.arange(12).reshape(6, 2)
    assert torch.equal(select_groups(value, 3, [2, 0]), torch.cat([value[4:], value[:2]]))


def test_first_layer_reads_one_latent_or_one_per_group() -> None:
    shared = GroupedDecoder((7,), 3, groups=2)
    private = GroupedDecoder((7,), 3, groups=2, private_size=1)
    assert (shared.input_size, private.input_size) == (3, 4)
    assert type(shared.first_layer(4)) is Linear
    assert shared.first_layer(4)(torch.zeros(6, 3)).shape == (6, 8)
    assert private.first_layer(4)(torch.zeros(6, 2, 4)).shape == (6, 8)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_flatten_batch_keeps_the_latent_axes(batch: tuple[int, ...]) -> None:
    flat, shape = GroupedDecoder((7,), 3, groups=2).flatten_batch(torch.zeros(*batch, 3))
    assert (flat.shape[1:], shape) == ((3,), batch)
    flat, shape = GroupedDecoder((7,), 3, groups=2, private_size=1).flatten_batch(torch.zeros(*batch, 2, 4))
    assert (flat.shape[1:], shape) == ((2, 4), batch)
