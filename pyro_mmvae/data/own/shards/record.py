"""``shards.json``, the description of exported shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pyro_mmvae._bounded import read_json
from pyro_mmvae.data.own.shards.decoding import Format
from pyro_mmvae.modality_spec import ModalitySpec, check_modality_name

FILE = "shards.json"
"""The name of the description in the folder of the shards."""

_PLAIN = re.compile(r"[^/\\\0]{1,200}\.tar")
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, Field(ge=1, le=2**40)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardRecord(_Part):
    """The description of one shard.

    Attributes:
        file: Name of the tar file, in the folder of ``shards.json``.
        split: Name of the split that its items belong to.
        items: Number of items in it.
        bytes: Number of bytes of the file.
        sha256: SHA-256 of the file.
        index_sha256: SHA-256 of the index beside it.
    """

    file: str
    split: Literal["train", "val", "test"]
    items: _Size
    bytes: _Size
    sha256: _Hash
    index_sha256: _Hash

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str) -> str:
        if not _PLAIN.fullmatch(file) or not file.isprintable():
            raise ValueError(f"file must be the name of a tar file in the folder, got {file!r}")
        return file


class MomentsRecord(_Part):
    """The moments of a modality over the training items that have it.

    Attributes:
        items: Number of these items.
        center: Mean of each feature, flattened.
        spread: Standard deviation of each feature, flattened.
    """

    items: _Size
    center: list[float]
    spread: list[float]


class ModalityRecord(_Part):
    """The description of one modality.

    Attributes:
        suffix: Suffix of its members.
        form: The encoding of its members, and the shape and the type of one item.
        spec: The settings of its :class:`~pyro_mmvae.ModalitySpec`.
        features: Names of its features; empty for features without names.
        moments: Its moments, if it is a vector; None otherwise.
    """

    suffix: str
    form: Format
    spec: dict[str, Any]
    features: tuple[str, ...] = ()
    moments: MomentsRecord | None = None


class ShardsRecord(_Part):
    """The description of all shards of a folder.

    Attributes:
        format: Version of the description, 1.
        name: Name of the data that were exported.
        modalities: Description of each modality by name, in order.
        class_names: Names of the classes if labels are classes with names, and empty otherwise.
        label_names: Names of the attributes if labels are attributes, and empty otherwise.
        covariates: Names of the categories of each covariate by its name.
        shards: Description of each shard, in order.
    """

    format: Literal[1]
    name: str
    modalities: dict[str, ModalityRecord]
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    covariates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    shards: tuple[ShardRecord, ...] = Field(min_length=1)

    def specs(self, where: Path) -> dict[str, ModalitySpec]:
        """Return the description of each modality.

        Args:
            where: Path of the file, for messages.

        Raises:
            ValueError: If a setting is wrong.
        """
        result = {}
        for name, modality in self.modalities.items():
            check_modality_name(name, str(where))
            try:
                result[name] = ModalitySpec(**modality.spec)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: the description of modality {name!r} is not valid: {error}") from None
        return result


def read_record(folder: Path) -> ShardsRecord | None:
    """Read the description of the shards of a folder; None if it does not have one.

    Args:
        folder: Path of the folder.

    Raises:
        ValueError: If it is damaged, or of a later version; the message is one line that names the file.
    """
    file = folder / FILE
    try:
        tree = read_json(file)
        if tree.get("format") != 1:
            raise ValueError(
                f"{file}: format must be 1, got {tree.get('format')!r}: a later version may have written it"
            )
        return ShardsRecord.model_validate(tree)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {place}: {first['msg']}: export the shards again") from None
