"""MultiVae (Senellart and Chadebec), its own model, trainer and evaluator, with the networks that ours has.

One network a modality, of torch's own layers in torch's own memory layout, as its users write them. Its encoders give
log variances: the last layer's weights are those of our log-scales doubled, so that its model is ours but for the floor
of the scale, 1e-4. Its trainer runs in a process of its own, see :mod:`benchmarks.elsewhere`.
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

from benchmarks.byhand import SCALE, alone
from benchmarks.elsewhere import elsewhere
from benchmarks.settings import NAMES, SHAPE, describe, new_trainer, new_vae, our_step, random_data, setting
from benchmarks.timing import Row, at_least, compare, in_turn
from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.device import resolve_precision
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.elbo import local_pyro

MISSING = "skipped: multivae is not installed (pip install 'pyro-mmvae[bench]')"


def installed() -> bool:
    """Whether there is a MultiVae."""
    return find_spec("multivae") is not None and find_spec("pythae") is not None


def title() -> str:
    """Its name and version."""
    return f"MultiVae {version('multivae')}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without what its loggers print."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def mopoe(vae: MultimodalVAE, config: Config) -> Any:
    """Its MoPoE, with the weights of a model of ours."""
    from multivae.models import MoPoE, MoPoEConfig  # noqa: PLC0415

    encoders, decoders = {}, {}
    for number, name in enumerate(NAMES):
        encoder, decoder = alone(vae, number)
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
    """Its data set of the same items, as floats in [0, 1], which is what it wants and what costs it least."""
    from multivae.data.datasets import MultimodalBaseDataset  # noqa: PLC0415

    return MultimodalBaseDataset({name: value.float() / 255 for name, value in data.tensors.items()}, data.labels)


def trainer(model: Any, data: MultimodalDataset, config: Config, folder: Path) -> Any:
    """Its trainer, with its default optimiser, torch's Adam, at our rates; without its progress bar."""
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
    """A loader of one batch, collated already: what is left of its trainer's loop is the step."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.batch = loader.dataset, next(iter(loader))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield self.batch


def its_step(config: Config, data: MultimodalDataset, folder: Path) -> Callable[[], object]:
    """A step of its trainer, on a batch that is there already."""
    made = trainer(mopoe(new_vae(config), config), data, config, folder)
    made.train_loader = OneBatch(made.train_loader)
    return lambda: made.train_step(1)


def make_its_step(name: str) -> Callable[[], object]:
    """The same by the name of a setting, for a process of its own."""
    folder = tempfile.TemporaryDirectory()
    step = its_step(setting(name, "mopoe", "component"), random_data(512), Path(folder.name))
    return lambda: (step(), folder)


def make_its_epoch(name: str, items: int) -> Callable[[], object]:
    """An epoch of its trainer, likewise."""
    folder, config, data = tempfile.TemporaryDirectory(), setting(name, "mopoe", "component"), random_data(items)
    theirs = trainer(mopoe(new_vae(config), config), data, config, Path(folder.name))
    return lambda: (theirs.train_step(1), folder)


def steps(rounds: int) -> Iterator[Row]:
    """A step of both, ours in float32 and at its best."""
    if not installed():
        print(f"          {MISSING}: steps against its MoPoE")
        return
    data, best = random_data(512), resolve_precision("auto", torch.device("cpu"))
    with local_pyro():
        for name in ("recipe", "mini"):
            config = setting(name, "mopoe", "component")
            check_reconstruction(config)
            ours = {"ours": our_step(config, data), f"ours, {best}": our_step(config, data, best)}
            with elsewhere(make_its_step, name) as theirs:
                contestants: dict[str, Callable[[], object]] = {"MultiVae": theirs, **ours}
                found = in_turn(contestants, rounds=rounds if name == "recipe" else 5 * rounds, warmup=2)
            row, asked = f"step, {name}, mopoe: {title()} / ours", name == "recipe"
            yield compare(f"{row}, fp32", found, "MultiVae", "ours", describe(config), at_least(2) if asked else None)
            if best != "fp32":
                bar = at_least(4) if asked else None
                yield compare(f"{row}, {best}", found, "MultiVae", f"ours, {best}", describe(config), bar)


def epochs(rounds: int) -> Iterator[Row]:
    """A whole epoch of both, its loader and data set against ours."""
    if not installed():
        print(f"          {MISSING}: epochs of its trainer")
        return
    for name, items, bar in (("recipe", 512 * rounds, at_least(2.5)), ("mini", 512 * rounds, None)):
        data, config = random_data(items), setting(name, "mopoe", "component")
        with elsewhere(make_its_epoch, name, items) as theirs, local_pyro():
            ours, number = new_trainer(config), iter(range(1_000_000))
            contestants = {
                "MultiVae": theirs,
                "ours": lambda o=ours, n=number, d=data: o.epoch(d, next(n)).read(),
            }
            found = in_turn(contestants, rounds=2)
        note = f"fp32, {items} items, {describe(config)}"
        yield compare(f"epoch, {name}, mopoe: {title()} / ours", found, "MultiVae", "ours", note, bar)


def check_reconstruction(config: Config) -> None:
    """Its networks are ours: each expert and each decoded image of a few items agree.

    Raises:
        AssertionError: if they do not.
    """
    from pythae.data.datasets import DatasetOutput  # noqa: PLC0415

    vae, data = new_vae(config), random_data(8)
    model = mopoe(vae, config)
    values = {name: value.float() / 255 for name, value in data.tensors.items()}
    with torch.no_grad():
        latents, experts = model.inference(DatasetOutput(data=values)), vae.guide.experts(values)
        z = experts.loc[:, 0]
        decoded = vae.decode(z)
        posterior = vae.guide.posterior(experts, "full")
        loc, log_variance = cast("tuple[Tensor, Tensor]", latents["subsets"]["_".join(NAMES)])
        torch.testing.assert_close(loc, posterior.mean, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close((0.5 * log_variance).exp(), posterior.stddev, rtol=1e-2, atol=1e-3)
        for name in NAMES:
            torch.testing.assert_close(model.decoders[name](z).reconstruction, decoded[name], rtol=1e-3, atol=1e-4)
