"""Shape checks in the package's annotations, a guard of global state, and a data set that takes no time."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import hypothesis
import jaxtyping
import pytest
from beartype import beartype

# No example is timed, and every run tries the same ones: a busy machine must not fail a test.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


def _mentions_array(hint: Any) -> bool:
    is_array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or any(map(_mentions_array, get_args(hint)))


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations with axes, and no others: tests give wrong types on purpose and want the answer.

    Constructors are left alone for that reason too; those that take arrays check shapes themselves.
    """
    hints = {name: hint for name, hint in function.__annotations__.items() if _mentions_array(hint)}
    if function.__name__ == "__init__" or not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


_checker = types.ModuleType("array_checks")
_checker.check_arrays = check_arrays  # type: ignore[attr-defined]
sys.modules[_checker.__name__] = _checker  # the hook wants a name that can be imported


def _modules() -> list[str]:
    """Every module of the package but three that warn with a stacklevel, which the checks' own frames would shift."""
    spec = importlib.util.find_spec("pyro_mmvae")
    assert spec is not None
    assert spec.origin is not None
    top = Path(spec.origin).parent
    files = (file.relative_to(top.parent).with_suffix("") for file in sorted(top.rglob("*.py")))
    skipped = {"__init__", "__main__", "cache", "polymnist_mini", "registry"}
    return [".".join(file.parts) for file in files if file.name not in skipped]


with jaxtyping.install_import_hook(_modules(), "array_checks.check_arrays"):
    for _name in _modules():
        importlib.import_module(_name)

import pyro  # noqa: E402
import torch  # noqa: E402
from pyro.poutine import runtime  # noqa: E402

from pyro_mmvae.aggregation import functional  # noqa: E402
from pyro_mmvae.data import MultimodalDataset, register_data, registry  # noqa: E402
from pyro_mmvae.device import resolve_device  # noqa: E402
from pyro_mmvae.likelihoods import LIKELIHOODS  # noqa: E402
from pyro_mmvae.runs.config import Config, make_config  # noqa: E402
from pyro_mmvae.vae.custom_networks import DECODERS, ENCODERS  # noqa: E402

torch.set_num_threads(1)

SPLITS = ("train", "val", "test")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests marked ``device`` compute elsewhere than on the CPU."""
    parser.addoption("--device", default="cpu", help="Where tests marked 'device' compute: cpu, cuda, cuda:1, …")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test marked ``device`` computes.

    Raises:
        ValueError: if this machine has no such device.
    """
    return resolve_device(str(request.config.getoption("--device")))


def flushes_denormals() -> bool:
    """Whether arithmetic of this thread takes denormal numbers for zero."""
    return (torch.tensor(2e-308, dtype=torch.float64) * torch.tensor(0.1, dtype=torch.float64)).item() == 0.0


def global_state() -> dict[str, object]:
    """What no test, and nothing in the package, may leave changed."""
    return {
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "module_local_params": pyro.settings.get("module_local_params"),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "flush denormals": flushes_denormals(),
        "Pyro's handlers": list(runtime._PYRO_STACK),
        "aggregations": functional.aggregations(),
        "data": registry.data_names(),
        "data formats": registry.format_names(),
        "parts": [list(table) for table in (LIKELIHOODS, ENCODERS, DECODERS)],
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
    """No test reads or writes the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRO_MMVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def toy_dataset(split: str, size: int, channels: Sequence[int], seed: int, name: str = "toy") -> MultimodalDataset:
    """Images (channel, 8, 8) in which the position of a bright square is the class, each modality in its own tint."""
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
    """Forget after a test whatever it registers."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(functional, "_REGISTRY", dict(functional._REGISTRY))
    snapshots = [(table, table.snapshot()) for table in (LIKELIHOODS, ENCODERS, DECODERS)]
    yield
    for table, parts in snapshots:
        table.restore(parts)


@pytest.fixture
def opened(registered: None) -> list[str]:
    """The data set ``toy``, and the splits of it that were opened."""
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
    """A configuration on the toy data; keywords override, ``train__lr=1e-3`` for ``train.lr``."""

    def make(**overrides: object) -> Config:
        settings: dict[str, object] = {
            "data__name": "toy", "data__modalities": 3, "data__train_size": 96, "data__val_size": 32,
            "data__test_size": 32, "model__latent_size": 4, "model__network__width": 4, "model__network__hidden": 16,
            "train__epochs": 2, "train__batch_size": 32, "train__threads": 1, "train__precision": "fp32",
            "train__device": "cpu",
        }  # fmt: skip
        return make_config(None, {key.replace("__", "."): value for key, value in (settings | overrides).items()})

    return make


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
