"""Trainings by two processes, connected by Gloo, against those by one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE, train
from pyro_mmvae.data import make_batch
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import read_state, read_weights
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Interrupted, Trainer, evaluate_elbo, make_objective, processes, resume
from pyro_mmvae.training.elbo import local_pyro
from pyro_mmvae.training.learned_weights import learned_weights
from pyro_mmvae.training.processes import ProcessLostError, Several, joined, own_device
from pyro_mmvae.training.start import _begun_before
from pyro_mmvae.training.team import Team

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available() or not hasattr(os, "fork"),
    reason="torch was built without Gloo, or the system cannot fork",
)
MakeConfig = Callable[..., Config]
SETTINGS = TrainConfig(lr=1e-2, schedule="constant", device="cpu", precision="fp32", threads=1, batch_size=128)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def in_processes(
    function: Callable[[int], Any], folder: Path, count: int = 2, timeout: float = 300.0
) -> list[tuple[int, Any]]:
    """Call a function in forked processes of one group; return exit status and result of each."""
    store, children = folder / f"store-{time.monotonic_ns()}", []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(timeout))
                warnings.simplefilter("ignore")
                torch.set_num_threads(1)
                distributed.init_process_group(
                    "gloo", init_method=f"file://{store}", rank=rank, world_size=count,
                    timeout=timedelta(seconds=timeout),
                )  # fmt: skip
                torch.save(function(rank), folder / f"result-{rank}")
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException as error:  # noqa: BLE001  (the child must not return into pytest)
                torch.save(f"{type(error).__name__}: {error}", folder / f"result-{rank}")
            os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    files = [folder / f"result-{rank}" for rank in range(count)]
    results = [torch.load(file, weights_only=False) if file.exists() else None for file in files]
    for file in files:
        file.unlink(missing_ok=True)
    return list(zip(statuses, results, strict=True))


def make_vae(aggregation: str, bound: str, penalties: tuple[Any, ...], **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [
        Modality("a", (4,), likelihood="normal", scale="calibrated:1"),
        Modality("b", (3,), likelihood="laplace", scale="learned"),
        Modality("c", (2,)),
    ]
    network = NetworkOptions(width=4, hidden=8)
    vae = MultimodalVAE(modalities, 3, aggregation, bound=bound, network=network, **options)
    vae.guide.set_penalties(penalties)
    return vae


def make_data(count: int, *, missing: bool) -> MultimodalDataset:
    torch.manual_seed(1)
    present = torch.rand(count, 3) < 0.6 if missing else torch.ones(count, 3, dtype=torch.bool)
    if missing and count > 4:
        present[: count // 2, 1] = False  # the first process has no item with b
    values = {"a": torch.randn(count, 4), "b": torch.randn(count, 3), "c": torch.randn(count, 2)}
    return MultimodalDataset(values, None, present, "gaps", "train")


CASES: dict[str, dict[str, Any]] = {
    "elbo": {},
    "mixture": {"bound": "mixture"},
    "missing modalities": {"missing": True},
    "unequal shares": {"count": 7, "missing": True},
    "fewer items than processes": {"count": 1},
    "penalties over the batch": {"penalties": ("infonce", "frechet"), "missing": True, "count": 33},
    "penalty over a mixture": {"aggregation": "moe", "penalties": ("infonce",), "bound": "mixture"},
    "learned weights": {"aggregation": "wb", "expert_weights": "learned", "bound": "subsets", "missing": True},
    "iwae": {"objective": {"name": "iwae", "samples": 3}, "missing": True},
    "masked": {"objective": "masked"},
    "sub_elbos": {"objective": "sub_elbos", "missing": True, "count": 9},
    "mmvm": {"objective": "mmvm", "penalties": ({"name": "infonce", "eta": 0.5},)},
    "mvtcae": {"objective": "mvtcae", "missing": True},
}


def as_tensors(values: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def two_steps(case: dict[str, Any], team: Team) -> dict[str, Any]:
    """Take two steps on one batch; return loss, terms, gradients of the second, buffers, and a validation."""
    options = {"aggregation": "mwb", "bound": "component", "penalties": (), **case}
    data = make_data(options.pop("count", 128), missing=options.pop("missing", False))
    objective = options.pop("objective", "elbo")
    vae = make_vae(**options)
    trainer = Trainer(make_objective(objective, vae), SETTINGS, total_steps=10, team=team)
    torch.manual_seed(3)
    losses = []
    with local_pyro(), team.common_draws():
        for _ in range(2):
            with team.shard(len(data)) as own:
                losses.append(trainer.step(make_batch(data, slice(own.start, own.stop))))
        terms = trainer.terms
        val = evaluate_elbo(vae, data, batch_size=50, team=team)
        weights = learned_weights(vae, data, batch_size=50, team=team)
        drawn = torch.rand(3, generator=team.generators["cpu"]) if isinstance(team, Several) else torch.rand(3)
    return {
        "losses": losses,
        "terms": {**terms.log_likelihood, **terms.penalties, "kl": terms.kl},
        "gradients": {name: p.grad for name, p in vae.named_parameters() if p.grad is not None},
        "buffers": dict(vae.named_buffers()) | {"drawn": drawn},
        "val": as_tensors({**val["log_likelihood"], "kl": val["kl"]}),
        "weights": as_tensors(weights.get("expert_weights", {})),
    }  # fmt: skip


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """Return the results of all cases by each of two processes, which are forked once."""
    folder = tmp_path_factory.mktemp("two")

    def run(_rank: int) -> dict[str, dict[str, Any]]:
        return {name: two_steps(case, Several(torch.device("cpu"))) for name, case in CASES.items()}

    answers = in_processes(run, folder)
    assert [status for status, _ in answers] == [0, 0], answers
    return [result for _, result in answers]


@pytest.mark.parametrize("name", CASES)
def test_step_of_two_processes_equals_that_of_one(name: str, by_two: list[dict[str, dict[str, Any]]]) -> None:
    alone = two_steps(CASES[name], Team())
    for result in by_two:
        torch.testing.assert_close(result[name], alone, rtol=2e-4, atol=2e-5, check_dtype=False)


def test_training_by_two_processes_equals_that_by_one_and_goes_on_with_another_number(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    config = toy_config(
        train__epochs=1, model__aggregation="mwb", train__penalties=["infonce"], train__schedule="constant"
    )
    train(config, tmp_path / "one", progress=False)

    def by_two(_rank: int) -> tuple[str, ...]:
        return train(config, tmp_path / "two", progress=False).names

    assert in_processes(by_two, tmp_path) == [(0, ("m0", "m1", "m2"))] * 2
    compare_runs(tmp_path / "one", tmp_path / "two")
    assert RunFiles(tmp_path / "two").samples.exists()
    environment = json.loads(RunFiles(tmp_path / "two").environment.read_text())
    assert environment["processes"] == {"count": 2, "per_machine": 2, "backend": "gloo"}
    resume(tmp_path / "one", epochs=2, progress=False)
    with pytest.warns(UserWarning, match="processes: 2 → 1"):
        resume(tmp_path / "two", epochs=2, progress=False)
    assert [s for s, _ in in_processes(lambda _: resume(tmp_path / "two", epochs=3).names, tmp_path)] == [0, 0]
    resume(tmp_path / "one", epochs=3, progress=False)
    compare_runs(tmp_path / "one", tmp_path / "two")


def compare_runs(path: Path, other: Path) -> None:
    for row, expected in zip(read_metrics(path), read_metrics(other), strict=True):
        for key in ("objective", "kl", "step", "lr"):
            assert row[key] == pytest.approx(expected[key], rel=2e-4), key
        assert row["val"]["elbo"] == pytest.approx(expected["val"]["elbo"], rel=2e-4)
    weights, others = (read_weights(RunFiles(p).checkpoint("last")) for p in (path, other))
    torch.testing.assert_close(weights, others, rtol=1e-2, atol=1e-3)


def test_signal_to_one_process_interrupts_all_and_one_process_goes_on(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(train__epochs=2)
    train(config, tmp_path / "whole", progress=False)

    def interrupted(rank: int) -> str:
        step = Trainer.step

        def step_with_signal(self: Trainer, batch: Any) -> torch.Tensor:
            if rank == 1 and self.steps == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch)

        Trainer.step = step_with_signal  # type: ignore[method-assign]
        with pytest.raises(Interrupted) as stop:
            train(config, tmp_path / "cut", progress=False)
        return f"{stop.value.number} {stop.value.epoch}"

    assert in_processes(interrupted, tmp_path) == [(0, "15 0"), (0, "15 0")]
    assert read_state(RunFiles(tmp_path / "cut").checkpoint("last"))["batch"] == 2
    with pytest.warns(UserWarning, match="processes: 2 → 1"):
        resume(tmp_path / "cut", progress=False)
    compare_runs(tmp_path / "whole", tmp_path / "cut")


def test_process_that_is_killed_ends_the_other_with_a_clear_error_and_no_step_is_lost(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    config = toy_config(train__epochs=2)
    train(config, tmp_path / "whole", progress=False)

    def killed(rank: int) -> str:
        step = Trainer.step

        def step_or_die(self: Trainer, batch: Any) -> torch.Tensor:
            if rank == 1 and self.steps == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch)

        Trainer.step = step_or_die  # type: ignore[method-assign]
        with pytest.raises(ProcessLostError) as lost:
            train(config, tmp_path / "cut", progress=False)
        return str(lost.value)

    started = time.monotonic()
    (status, message), (killed_by, _) = in_processes(killed, tmp_path)
    assert (status, killed_by) == (0, -signal.SIGKILL)
    assert time.monotonic() - started < 60
    assert message.startswith("process 0 of 2 has lost another process of the training of ")
    assert f"--resume {tmp_path / 'cut'}" in message
    assert "\n" not in message
    state = read_state(RunFiles(tmp_path / "cut").checkpoint("last"))
    assert (state["epoch"], state["batch"], state["step"]) == (0, 2, 2)
    with pytest.warns(UserWarning, match="processes: 2 → 1"):
        resume(tmp_path / "cut", progress=False)
    compare_runs(tmp_path / "whole", tmp_path / "cut")


def test_error_of_the_first_process_ends_all_with_its_message_once(toy_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    first, second = in_processes(lambda _: train(toy_config(), tmp_path / "taken", progress=False), tmp_path)
    assert first == (1, f"RunError: {tmp_path / 'taken'} exists already: give another --out, or continue it with "
                        f"--resume {tmp_path / 'taken'}")  # fmt: skip
    assert second == (2, None)


def test_batch_smaller_than_the_number_of_processes_is_refused(toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(train__batch_size=1)
    first, _ = in_processes(lambda _: train(config, tmp_path / "run", progress=False), tmp_path)
    assert first == (1, "ValueError: train.batch_size must be at least the number of processes, 2, got 1")
    assert not (tmp_path / "run").exists()


def test_joined_without_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as team:
        assert (team.rank, team.size, type(team)) == (0, 1, Team)
    assert not distributed.is_initialized()


def test_joined_again_after_a_restart_meets_on_the_store_that_the_launcher_keeps(tmp_path: Path) -> None:
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for attempt in range(3):
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(120)
                own = {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": str(attempt)}
                os.environ.update({**launcher, **own})
                with joined("cpu") as team:
                    os._exit(10 * team.size + team.largest(rank))  # without a farewell, as processes that are killed
                os._exit(1)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [21, 21]


def test_joined_with_a_timeout_that_is_no_number_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**values, processes.TIMEOUT_VARIABLE: "soon"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="PYRO_MMVAE_PROCESS_TIMEOUT must be a number of seconds above 0, got 'soon'"):
        joined("cpu").__enter__()


def test_own_device_is_the_gpu_of_the_process_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [own_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(ValueError, match="must have a GPU per process, got 2 GPUs for 4 processes"):
        own_device("cuda")


def test_training_restarted_by_its_launcher_goes_on_in_its_run_directory(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    config = toy_config(train__epochs=1)
    path = train(config, progress=False).path
    assert _begun_before(config, None, None) == path
    assert _begun_before(config, path, None) == path
    shutil.copytree(path, tmp_path / "other")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = train(config, progress=False)
    assert again.path == path
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == [path.name]
    monkeypatch.setattr(os, "getppid", lambda: 1)  # another launcher
    assert _begun_before(config, None, None) is None
    assert _begun_before(config, path, None) is None
