"""``meta.yaml``: the description of a user's own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pyro_mmvae._bounded import TextError, load_yaml, read_text
from pyro_mmvae._printable import one_line
from pyro_mmvae.data.tokenizer import make_absolute
from pyro_mmvae.modality_spec import DATA_TYPES, ModalitySpec

OLDER_NAMES = {"kind": "data_type", "size": "reference_total", "weight": "reconstruction_weight"}
"""Older names of keys of a modality, which are accepted because these files belong to users."""


@dataclass(frozen=True, kw_only=True)
class ModalityMeta(ModalitySpec):
    """A description of one modality with two settings of how its values are checked.

    Attributes:
        missing_nan: If True, an item with a NaN in this modality lacks the modality; if False, a NaN is an error. As
            for the whole data set by default.
        allow_constant: If True, all values may be equal; if False, that is an error. As for the whole data set by
            default.
    """

    missing_nan: bool | None = None
    allow_constant: bool | None = None


class Meta(BaseModel):
    """A description of a whole data set.

    Attributes:
        modalities: Modality name to description.
        missing_nan: If True, an item with a NaN in a modality lacks that modality; if False, a NaN is an error. False
            by default.
        allow_constant: If True, all values of a modality may be equal. False by default.
        label_names: Names of the attributes, if labels are attributes.
        class_names: Names of the classes 0, 1, …, if labels are classes.
        categories: Names of the categories of a covariate by its name; by default those that occur, sorted.
        tokenizer: Tokenizer of all strings whose modality has neither an alphabet nor a tokenizer: a path relative to
            the data, or ``bpe:N``; none by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: dict[str, ModalityMeta] = Field(default_factory=dict)
    missing_nan: bool = False
    allow_constant: bool = False
    label_names: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    class_names: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    categories: dict[str, tuple[Annotated[str, Field(min_length=1)], ...]] | None = None
    tokenizer: str | None = None

    @field_validator("modalities", mode="before")
    @classmethod
    def _rename_older_keys(cls, modalities: Any) -> Any:
        if not isinstance(modalities, Mapping):
            return modalities
        return {name: _with_current_names(str(name), entry) for name, entry in modalities.items()}

    @field_validator("label_names", "class_names")
    @classmethod
    def _check_names_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = [name for number, name in enumerate(names or ()) if name in (names or ())[:number]]
        if repeated:
            raise ValueError(f"names must differ, got {repeated[0]!r} twice")
        return names

    def entry(self, name: str) -> ModalityMeta:
        """Return the entry of a modality, an empty one if the file has none."""
        return self.modalities.get(name, ModalityMeta())

    def spec(self, name: str) -> ModalitySpec:
        """Return the description of a modality, with data type and classes where likelihood or alphabet imply them."""
        entry = self.entry(name)
        spec = ModalitySpec().updated(entry)
        classes = len(entry.alphabet) if entry.alphabet else entry.classes
        return replace(spec, data_type=entry.implied_data_type, classes=classes)

    def allows(self, switch: Literal["missing_nan", "allow_constant"], name: str) -> bool:
        """Return the value of a switch for a modality, that of the whole data set if its entry leaves it open."""
        value = getattr(self.entry(name), switch)
        return bool(getattr(self, switch) if value is None else value)

    def with_options(
        self,
        where: str,
        kinds: Mapping[str, str] | None,
        missing_nan: bool | None,
        allow_constant: bool | None,
        tokenizer: str | Mapping[str, str] | None = None,
    ) -> Meta:
        """Return a copy in which the options of a loader take precedence.

        Args:
            where: Path of the data, the beginning of the error message.
            kinds: Modality name to data type.
            missing_nan: The switch for the whole data set; None leaves it as it is.
            allow_constant: The switch for the whole data set; None leaves it as it is.
            tokenizer: The tokenizer of all strings, or tokenizers by modality name, with paths that are relative to the
                working directory; None (default) leaves them as they are.

        Raises:
            ValueError: If a data type is unknown.
        """
        modalities = dict(self.modalities)
        for name, data_type in (kinds or {}).items():
            if data_type not in DATA_TYPES:
                raise ValueError(
                    f"{where}: kinds of {name!r} must be one of {', '.join(DATA_TYPES)}, got {data_type!r}"
                )
            modalities[name] = replace(self.entry(name), data_type=data_type)
        switches = {"missing_nan": missing_nan, "allow_constant": allow_constant}
        changes: dict[str, Any] = {key: value for key, value in switches.items() if value is not None}
        if isinstance(tokenizer, str):
            changes["tokenizer"] = make_absolute(tokenizer)
        for name, request in tokenizer.items() if isinstance(tokenizer, Mapping) else ():
            modalities[name] = replace(modalities.get(name, ModalityMeta()), tokenizer=make_absolute(request))
        return self.model_copy(update={"modalities": modalities, **changes})

    def check_names(self, where: str, names: list[str]) -> None:
        """Check that the data has every modality with an entry.

        Args:
            where: Path of the data, the beginning of the error message.
            names: Names of the modalities of the data.

        Raises:
            ValueError: If there is an entry of another name.
        """
        for name in self.modalities:
            if name not in names:
                raise ValueError(f"{where}: there is an entry for modality {name!r}, the data has {', '.join(names)}")


def read_meta(path: Path) -> Meta:
    """Read ``meta.yaml``; a file that does not exist is taken for an empty one.

    Raises:
        ValueError: If it cannot be read, or a key or value is wrong; the message names the key.
    """
    try:
        tree = load_yaml(read_text(path))
    except FileNotFoundError:
        return Meta()
    except TextError as error:
        raise ValueError(f"{path}{error.where}: {error}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({one_line(error)})") from None
    return make_meta(str(path), tree)


def make_meta(where: str, tree: Any) -> Meta:
    """Return the description that a tree of YAML holds.

    Args:
        where: Path of the file, the beginning of error messages.
        tree: The content of the file.

    Raises:
        ValueError: If a key is unknown or a value is wrong; the message names the key.
    """
    try:
        return Meta.model_validate({} if tree is None else tree)
    except ValidationError as error:
        raise ValueError(f"{where}: {_describe(error)}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None


def _with_current_names(name: str, entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    for older, current in OLDER_NAMES.items():
        if older in entry and current in entry:
            raise ValueError(f"{name}: {older} is an older name of {current}, give one of the two")
    return {OLDER_NAMES.get(key, key): value for key, value in entry.items()}


def _describe(error: ValidationError) -> str:
    """Return the first problem in one line, with the names of the keys that exist if one does not."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        in_modality = len(first["loc"]) > 1
        names = [field.name for field in fields(ModalityMeta)] if in_modality else list(Meta.model_fields)
        return f"{key}: no such key; there are {', '.join(names)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # which says by itself what it got
        return f"{key}: {message}"
    return f"{key or 'the whole'}: {message}, got {' '.join(repr(first['input']).split())[:80]}"
