"""The record of the data that a run was trained on, and the check that they are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from pyro_mmvae._bounded import read_json
from pyro_mmvae._printable import one_line
from pyro_mmvae.data import DataDescription, MultimodalDataset, data_names, describe_data
from pyro_mmvae.data.fingerprint import Fingerprint, find_changes, take_fingerprint
from pyro_mmvae.data.storage.patterns import matching_paths
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import RunError, RunWriter
from pyro_mmvae.runs.resolution import load_split

_MAX_LISTED = 3  # differences in a message


class DataChangedError(ValueError):
    """An error about data that have changed since a run used them; the message is one line and says what differs.

    Args:
        path: The path of the run directory.
        changes: The differences, one line each, at least one.
        remedy: The last part of the message, which says what to do.
    """

    def __init__(
        self,
        path: Path,
        changes: tuple[str, ...],
        remedy: str = "restore them, or pass --allow-changed-data (in Python, allow_changed_data=True) to go on",
    ) -> None:
        self.path, self.changes = path, changes
        more = len(changes) - _MAX_LISTED
        listed = "; ".join(changes[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
        super().__init__(f"{path}: the data have changed since the run used them: {listed}: {remedy}")


@dataclass(frozen=True)
class DataRecord:
    """A record of the data of a run, as it is stored in the run directory.

    Attributes:
        fingerprints: Fingerprint of each split that was used, by its name.
        feature_names: Names of the features by modality name; modalities without names are left out.
        feature_means: Training mean of each feature by modality name, for modalities with names of features.
        class_names: Names of the classes if labels are classes with names, and empty otherwise.
        label_names: Names of the attributes if labels are attributes, and empty otherwise.
    """

    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    feature_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    feature_means: dict[str, tuple[float, ...]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()

    def describe(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        specs: Mapping[str, ModalitySpec],
        covariate_names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> DataDescription:
        """Return the description of the training data, of which a checkpoint holds what its model depends on.

        Args:
            shapes: Shape of one item of each modality, by name.
            specs: Description of each modality, by name.
            covariate_names: Names of the categories of each covariate by its name; none by default.
        """
        return DataDescription(
            shapes, specs, self.feature_names, self.feature_means, self.class_names, self.label_names,
            covariate_names or {},
        )  # fmt: skip


_ADAPTER = TypeAdapter(DataRecord)


def make_record(splits: Mapping[str, MultimodalDataset], specs: Mapping[str, ModalitySpec]) -> DataRecord:
    """Return the record of the data that a training uses.

    Args:
        splits: The splits that the training uses by name, ``train`` among them.
        specs: The completed description of each modality, by name.
    """
    about = describe_data(splits["train"], specs)
    return DataRecord(
        {name: take_fingerprint(data) for name, data in splits.items()},
        dict(about.feature_names),
        dict(about.feature_means),
        about.class_names,
        about.label_names,
    )


def write_record(path: Path, record: DataRecord) -> None:
    """Write the record of a run, atomically.

    Args:
        path: The path of the run directory.
        record: The record to write.
    """
    RunWriter(path).write_data_record(asdict(record))


def read_record(path: Path) -> DataRecord | None:
    """Read the record of a run.

    Args:
        path: The path of the run directory.

    Returns:
        The record; None if a version without records wrote the run.

    Raises:
        RunError: If the record is damaged.
    """
    file = RunFiles(path).data_record
    try:
        return _ADAPTER.validate_python(read_json(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise RunError(
            f"{file}: must be the record of the run's data, got an error: {reason}: remove the file to go on without it"
        ) from None


def check_splits(path: Path, splits: Mapping[str, MultimodalDataset]) -> None:
    """Check that splits are those that a run has recorded; splits without a record are not checked.

    Args:
        path: The path of the run directory.
        splits: The splits by name.

    Raises:
        DataChangedError: If the content of a split differs; the message says in what.
    """
    record = read_record(path)
    changes = [
        f"split {name!r}: {line}"
        for name, data in splits.items()
        if record is not None and name in record.fingerprints
        for line in find_changes(record.fingerprints[name], take_fingerprint(data), data.feature_names)
    ]
    if changes:
        raise DataChangedError(path, tuple(changes))


def load_checked_split(path: Path, config: Config, split: str, *, train_is_checked: bool = False) -> MultimodalDataset:
    """Load a split of a run's data, and check that it is the one that the run has used before.

    At its first use the fingerprint of the split is recorded, after the training split was checked if the data are
    files: files that were changed as a whole are seen then.

    Args:
        path: The path of the run directory.
        config: The configuration of the run.
        split: The name of the split.
        train_is_checked: If True, the training split was checked already and is not loaded. False by default.

    Raises:
        FileNotFoundError: If the data are files that do not exist any more.
        DataChangedError: If the content of the split differs; the message says in what.
    """
    place = Path(config.data.name)
    if place.is_absolute() and not matching_paths(place)[0].exists():
        raise FileNotFoundError(
            f"{path}: the data that the run was trained on must exist, got nothing at {place}: put them back, or pass "
            "their new path as --data (data= in Python) to a command that needs no training items"
        )
    data = load_split(config, split)
    record = read_record(path)
    if record is None:
        return data
    if split in record.fingerprints:
        check_splits(path, {split: data})
        return data
    if config.data.name not in data_names() and not train_is_checked:
        check_splits(path, {"train": load_split(config, "train")})
    fingerprints = {**record.fingerprints, split: take_fingerprint(data)}
    with suppress(OSError):  # a run directory that cannot be written to can still be used
        write_record(path, replace(record, fingerprints=fingerprints))
    return data
