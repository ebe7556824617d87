"""The benchmarks against MultiVae (Senellart and Chadebec) with its model and trainer and equal networks.

MultiVae gets one network per modality, of torch's layers in torch's memory layout, as its users write them. Its
encoders return log variances, so the weights of the last layer are twice those of the log-scales of this package. Its
model is then the model of this package except for the floor of the scale, 1e-4. Its trainer runs in a process of its
own, see :mod:`benchmarks.process`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.byhand import SCALE, single_modality_networks
from benchmarks.process import in_own_process
from benchmarks.settings import NAMES, SHAPE, describe, new_trainer, new_vae, our_step, random_data, setting
from benchmarks.timing import Row, at_least, compare, in_turn
from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.device import resolve_precision
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.elbo import local_pyro

MISSING = "skipped: multivae is not installed (pip install 'pyro-mmvae[bench]')"


def installed() -> bool:
    """Return True if MultiVae is installed."""
    return find_spec("multivae") is not None and find_spec("pythae") is not None


def title() -> str:
    """Return the name and version of MultiVae."""
    return f"MultiVae {version('multivae')}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loggers of MultiVae in the context."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def mopoe(vae: MultimodalVAE, config: Config) -> Any:
    """Return the MoPoE model of MultiVae with the weights of a model of this package."""
    from multivae.models import MoPoE, MoPoEConfig  # noqa: PLC0415

    encoders, decoders = {}, {}
    for number, name in enumerate(NAMES):
        encoder, decoder = single_modality_networks(vae, number)
        with torch.no_grad():
            for parameter in encoder[-1].parameters():
                parameter[config.model.latent_size :] *= 2
        encoders[name], decoders[name] = _wrapped(encoder, decoder, config.model.latent_size)
    options = MoPoEConfig(
        n_modalities=len(NAMES),
        latent_dim=config.model.latent_size,
        input_dims=dict.fromkeys(NAMES, SHAPE),
        decoders_dist=dict.fromkeys(NAMES, "laplace"),
        decoder_dist_params={name: {"scale": SCALE} for name in NAMES},
        beta=config.model.beta,
    )
    return MoPoE(options, encoders, decoders).train()


def _wrapped(encoder: nn.Module, decoder: nn.Module, latent_size: int) -> tuple[nn.Module, nn.Module]:
    from pythae.models.base.base_utils import ModelOutput  # noqa: PLC0415
    from pythae.models.nn import BaseDecoder, BaseEncoder  # noqa: PLC0415

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.latent_dim = encoder, latent_size

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    return Encoder(), Decoder()


def dataset(data: MultimodalDataset) -> Any:
    """Return a data set of MultiVae with the items as floats in [0, 1], which it needs and which cost it least."""
    from multivae.data.datasets import MultimodalBaseDataset  # noqa: PLC0415

    return MultimodalBaseDataset({name: value.float() / 255 for name, value in data.tensors.items()}, data.labels)


def trainer(model: Any, data: MultimodalDataset, config: Config, folder: Path) -> Any:
    """Return the trainer of MultiVae without a progress bar.

    It uses its default optimiser, torch's Adam, with the learning rate and betas of the configuration.

    Args:
        model: The model of MultiVae.
        data: The data set to train on.
        config: The configuration with batch size, learning rate and betas.
        folder: The folder for its output.
    """
    from multivae.trainers import BaseTrainer, BaseTrainerConfig  # noqa: PLC0415

    options = BaseTrainerConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.train.batch_size,
        learning_rate=config.train.lr,
        optimizer_params={"betas": list(config.train.betas)},
        no_cuda=True,
        drop_last=True,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        made = BaseTrainer(model, dataset(data), training_config=options)
    made.callback_handler.callbacks = []
    return made


class OneBatch:
    """A loader of one batch that is already collated, which reduces an epoch of the trainer to one step."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.batch = loader.dataset, next(iter(loader))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield self.batch


def multivae_step(config: Config, data: MultimodalDataset, folder: Path) -> Callable[[], object]:
    """Return a step of the trainer of MultiVae on a batch that is already loaded."""
    made = trainer(mopoe(new_vae(config), config), data, config, folder)
    made.train_loader = OneBatch(made.train_loader)
    return lambda: made.train_step(1)


def make_multivae_step(name: str) -> Callable[[], object]:
    """Return a step of the trainer of MultiVae by the name of a setting, which a process of its own can call."""
    folder = tempfile.TemporaryDirectory()
    step = multivae_step(setting(name, "mopoe", "component"), random_data(512), Path(folder.name))
    return lambda: (step(), folder)


def make_multivae_epoch(name: str, items: int) -> Callable[[], object]:
    """Return an epoch of the trainer of MultiVae by the name of a setting, which a process of its own can call."""
    folder, config, data = tempfile.TemporaryDirectory(), setting(name, "mopoe", "component"), random_data(items)
    theirs = trainer(mopoe(new_vae(config), config), data, config, Path(folder.name))
    return lambda: (theirs.train_step(1), folder)


def steps(rounds: int) -> Iterator[Row]:
    """Yield the ratios of steps of both packages, this one in float32 and in the fastest precision."""
    if not installed():
        print(f"          {MISSING}: steps against its MoPoE")
        return
    data, best = random_data(512), resolve_precision("auto", torch.device("cpu"))
    with local_pyro():
        for name in ("recipe", "mini"):
            config = setting(name, "mopoe", "component")
            check_reconstruction(config)
            ours = {"ours": our_step(config, data), f"ours, {best}": our_step(config, data, best)}
            with in_own_process(make_multivae_step, name) as theirs:
                contestants: dict[str, Callable[[], object]] = {"MultiVae": theirs, **ours}
                seconds = in_turn(contestants, rounds=rounds if name == "recipe" else 5 * rounds, warmup=2)
            row, asked = f"step, {name}, mopoe: {title()} / ours", name == "recipe"
            yield compare(f"{row}, fp32", seconds, "MultiVae", "ours", describe(config), at_least(2) if asked else None)
            if best != "fp32":
                bar = at_least(4) if asked else None
                yield compare(f"{row}, {best}", seconds, "MultiVae", f"ours, {best}", describe(config), bar)


def epochs(rounds: int) -> Iterator[Row]:
    """Yield the ratios of whole epochs of both packages, with their own loaders and data sets."""
    if not installed():
        print(f"          {MISSING}: epochs of its trainer")
        return
    for name, items, bar in (("recipe", 512 * rounds, at_least(2.5)), ("mini", 512 * rounds, None)):
        data, config = random_data(items), setting(name, "mopoe", "component")
        with in_own_process(make_multivae_epoch, name, items) as theirs, local_pyro():
            ours, number = new_trainer(config), iter(range(1_000_000))
            contestants = {
                "MultiVae": theirs,
                "ours": lambda o=ours, n=number, d=data: o.epoch(d, next(n)).read(),
            }
            seconds = in_turn(contestants, rounds=2)
        note = f"fp32, {items} items, {describe(config)}"
        yield compare(f"epoch, {name}, mopoe: {title()} / ours", seconds, "MultiVae", "ours", note, bar)


def check_reconstruction(config: Config) -> None:
    """Check that the networks of both packages agree on each expert and each decoded image of a few items.

    Raises:
        AssertionError: If they do not agree.
    """
    from pythae.data.datasets import DatasetOutput  # noqa: PLC0415

    vae, data = new_vae(config), random_data(8)
    model = mopoe(vae, config)
    values = {name: value.float() / 255 for name, value in data.tensors.items()}
    with torch.no_grad():
        latents, experts = model.inference(DatasetOutput(data=values)), vae.guide.experts(values)
        z = experts.loc[:, 0]
        decoded = vae.decode(z)
        posterior = vae.guide.posterior(experts, "joint")
        loc, log_variance = cast("tuple[Tensor, Tensor]", latents["subsets"]["_".join(NAMES)])
        torch.testing.assert_close(loc, posterior.mean, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close((0.5 * log_variance).exp(), posterior.stddev, rtol=1e-2, atol=1e-3)
        for name in NAMES:
            torch.testing.assert_close(model.decoders[name](z).reconstruction, decoded[name], rtol=1e-3, atol=1e-4)
