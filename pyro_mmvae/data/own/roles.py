"""The roles of the columns of a table: modalities, identifiers, labels, splits and covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Roles:
    """The roles of the columns of a table.

    Attributes:
        columns: Column or columns of each modality by its name, or None for one modality per column without a role.
        ids: Column of the identifiers, or None if there is none.
        labels: Column of the classes, or columns of the attributes, or None if there are none.
        split_by: Column of the splits, or None for a random split.
        covariates: Columns of categorical covariates; none by default.
    """

    columns: Mapping[str, str | Sequence[str]] | None = None
    ids: str | None = None
    labels: str | Sequence[str] | None = None
    split_by: str | None = None
    covariates: Sequence[str] = ()


def first_names(names: Sequence[str]) -> str:
    """Return the first 20 names of columns, for a message."""
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def choose_columns(
    where: str, names: Sequence[str], chosen: Mapping[str, str | Sequence[str]] | None, used: Set[str]
) -> dict[str, tuple[str, ...]]:
    """Return the columns of each modality, with patterns replaced by the columns that match them.

    Args:
        where: Path of the table, the beginning of error messages.
        names: Names of all columns, in their order.
        chosen: Column, columns or patterns of each modality by its name; None for one modality per unused column.
        used: Names of the columns that have another role.

    Raises:
        ValueError: If a pattern matches no column, or no column is left for a modality.
    """
    modalities: dict[str, tuple[str, ...]] = {}
    if chosen is None:
        modalities = {name: (name,) for name in names if name not in used}
    for modality, patterns in (chosen or {}).items():
        found: dict[str, None] = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matching = [name for name in names if fnmatchcase(name, pattern) and name not in used]
            matching = [pattern] if pattern in names else matching
            if not matching:
                raise ValueError(
                    f"{where}: columns of modality {modality!r} must be among {first_names(names)}, got {pattern!r}"
                )
            found |= dict.fromkeys(matching)
        modalities[str(modality)] = tuple(found)
    if not modalities:
        raise ValueError(f"{where}: must have a column of a modality, got only {first_names(names)}")
    return modalities


def refuse_shared_columns(where: str, modalities: Mapping[str, Sequence[str]], covariates: Sequence[str]) -> None:
    """Check that columns of covariates are not columns of a modality as well.

    A decoder that conditions on the column would know the modality without the latent.

    Args:
        where: Path of the table, the beginning of error messages.
        modalities: Columns of each modality by its name.
        covariates: Columns of the covariates.

    Raises:
        ValueError: If a column is both; the message names it and the modality.
    """
    for name, columns in modalities.items():
        shared = [column for column in covariates if column in columns]
        if shared:
            raise ValueError(
                f"{where}: covariates must not be columns of a modality, got {shared[0]!r} of modality {name!r}: leave "
                "it out of the option covariates, or of columns"
            )
