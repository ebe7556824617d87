"""Array checks in the package's annotations, a guard of global state, worker processes, and a toy data set."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

# Before torch and NumPy load OpenMP. Workers of pytest-xdist have one core each, so that one thread is fastest; a test
# that sets more threads by itself must not let those that wait spin on the core of another worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from beartype import beartype  # noqa: E402

# Hypothesis times no example and tries the same ones in every run: a busy machine must not fail a test.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

MAX_WORKERS = 4


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in one process per core, unless the command line says otherwise.

    ``python -m pytest`` without a path is the whole suite. With paths, or with ``-n 0``, everything runs in this
    process, which starts sooner. ``-n`` is not in ``addopts``, where it would rule out ``-p no:xdist``.
    """
    is_whole_suite = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_worker = hasattr(config, "workerinput")  # a worker runs this hook too, and must not start workers of its own
    if is_worker or not is_whole_suite or not config.pluginmanager.hasplugin("xdist"):
        return
    if config.option.numprocesses is None:
        config.option.numprocesses = "auto"
        if config.option.dist == "no":
            config.option.dist = "worksteal"  # tests of a module mostly stay together, and share its fixtures


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes of ``-n auto``, which each hold torch and a model in memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)


def _mentions_array(hint: Any) -> bool:
    is_array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or any(map(_mentions_array, get_args(hint)))


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations that have axes, and no others, since tests pass wrong types on purpose.

    Constructors are left alone for the same reason; those that take arrays check shapes themselves.
    """
    hints = {name: hint for name, hint in function.__annotations__.items() if _mentions_array(hint)}
    if function.__name__ == "__init__" or not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


_checker = types.ModuleType("array_checks")
_checker.check_arrays = check_arrays  # type: ignore[attr-defined]
sys.modules[_checker.__name__] = _checker  # the import hook takes the checker by the name of an importable module

# These warn with a stacklevel, which the frames of the checks would shift.
UNCHECKED = {"pyro_mmvae.data.registry", "pyro_mmvae.data.sets.polymnist_mini", "pyro_mmvae.data.storage.cache"}


def _modules() -> list[str]:
    """Return the names of the package's modules whose annotations are checked."""
    spec = importlib.util.find_spec("pyro_mmvae")
    assert spec is not None
    assert spec.origin is not None
    top = Path(spec.origin).parent
    files = (file.relative_to(top.parent).with_suffix("") for file in sorted(top.rglob("*.py")))
    names = [".".join(file.parts) for file in files if file.name not in {"__init__", "__main__"}]
    return [name for name in names if name not in UNCHECKED]


with jaxtyping.install_import_hook(_modules(), "array_checks.check_arrays"):
    for _name in _modules():
        importlib.import_module(_name)

import pyro  # noqa: E402
import torch  # noqa: E402
from pyro.poutine import runtime  # noqa: E402

from pyro_mmvae.aggregation import aggregations  # noqa: E402
from pyro_mmvae.aggregation.names import REGISTRY  # noqa: E402
from pyro_mmvae.data import MultimodalDataset, register_data, registry  # noqa: E402
from pyro_mmvae.device import resolve_device  # noqa: E402
from pyro_mmvae.guides.penalties import PENALTIES  # noqa: E402
from pyro_mmvae.likelihoods import LIKELIHOODS  # noqa: E402
from pyro_mmvae.networks import NETWORKS  # noqa: E402
from pyro_mmvae.runs.config import Config, make_config  # noqa: E402
from pyro_mmvae.training import objectives  # noqa: E402
from pyro_mmvae.vae.custom_networks import DECODERS, ENCODERS  # noqa: E402

torch.set_num_threads(1)

SPLITS = ("train", "val", "test")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that sets the device of the tests marked ``device``."""
    parser.addoption("--device", default="cpu", help="The device of tests marked 'device': cpu, cuda, cuda:1, …")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device of a test marked ``device``.

    Raises:
        ValueError: If the device is unavailable on this machine.
    """
    return resolve_device(str(request.config.getoption("--device")))


def flushes_denormals() -> bool:
    """Return True if arithmetic of this thread takes denormal numbers for zero."""
    return (torch.tensor(2e-308, dtype=torch.float64) * torch.tensor(0.1, dtype=torch.float64)).item() == 0.0


def global_state() -> dict[str, object]:
    """Return the state that no test, and nothing in the package, may leave changed."""
    return {
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "module_local_params": pyro.settings.get("module_local_params"),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "flush denormals": flushes_denormals(),
        "Pyro's handlers": list(runtime._PYRO_STACK),
        "aggregations": aggregations(),
        "data": registry.data_names(),
        "data formats": registry.format_names(),
        "objectives": objectives.objective_names(),
        "parts": [list(table) for table in (LIKELIHOODS, ENCODERS, DECODERS, NETWORKS, PENALTIES)],
    }


@pytest.fixture(autouse=True)
def nothing_global_changes() -> Iterator[None]:
    """Fail a test that leaves global state changed, and start it with an empty parameter store and a fixed seed."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    before = global_state()
    yield
    after = global_state()
    pyro.clear_param_store()
    runtime._PYRO_STACK.clear()
    assert after == before


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the session a cache of its own, so that no test reads or writes the one of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRO_MMVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def toy_dataset(split: str, size: int, channels: Sequence[int], seed: int, name: str = "toy") -> MultimodalDataset:
    """Return images `(channel, 8, 8)` whose class is the position of a bright square, in one tint per modality."""
    generator = torch.Generator().manual_seed(1000 * seed + SPLITS.index(split))
    labels = torch.randint(0, 4, (size,), generator=generator)
    modalities = {}
    for m, count in enumerate(channels):
        images = torch.randint(0, 40, (size, count, 8, 8), generator=generator)
        for row, label in enumerate(labels.tolist()):
            y, x = 4 * (label // 2), 4 * (label % 2)
            images[row, m % count, y : y + 4, x : x + 4] += 180
        modalities[f"m{m}"] = images.to(torch.uint8)
    present = torch.ones(size, len(channels), dtype=torch.bool)
    return MultimodalDataset(modalities, labels, present, name, split, {"seed": seed})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test registers after it."""
    monkeypatch.setattr(registry.DATA_SETS, "_parts", registry.DATA_SETS.snapshot())
    tables = (REGISTRY, LIKELIHOODS, ENCODERS, DECODERS, NETWORKS, PENALTIES, objectives._OBJECTIVES)
    snapshots = [(table, table.snapshot()) for table in tables]
    yield
    for table, parts in snapshots:
        table.restore(parts)


@pytest.fixture
def opened(registered: None) -> list[str]:
    """Register the data set ``toy``, and return the list of its splits that were opened, which grows."""
    seen: list[str] = []

    @register_data("toy")
    def load_toy(
        split: str,
        *,
        cache: bool = True,
        modalities: int = 3,
        train_size: int = 96,
        val_size: int = 32,
        test_size: int = 32,
        photographs: Sequence[str] | None = None,
        seed: int = 0,
    ) -> MultimodalDataset:
        seen.append(split)
        size = {"train": train_size, "val": val_size, "test": test_size}[split]
        return toy_dataset(split, size, [3] * modalities, seed)

    return seen


@pytest.fixture
def toy_config(opened: list[str]) -> Callable[..., Config]:
    """Return a function that makes configurations on the toy data; ``train__lr`` stands for ``train.lr``."""

    def make(**overrides: object) -> Config:
        settings: dict[str, object] = {
            "data__name": "toy", "data__modalities": 3, "data__train_size": 96, "data__val_size": 32,
            "data__test_size": 32, "model__latent_size": 4, "model__network__width": 4, "model__network__hidden": 16,
            "train__epochs": 2, "train__batch_size": 32, "train__threads": 1, "train__precision": "fp32",
            "train__device": "cpu", "recipe": "plain",
        }  # fmt: skip
        return make_config(None, {key.replace("__", "."): value for key, value in (settings | overrides).items()})

    return make


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory, and return its path."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
