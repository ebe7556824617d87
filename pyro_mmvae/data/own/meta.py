"""``meta.yaml``: what a user says of their own data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pyro_mmvae.data.modality_spec import KINDS, Traits, kind_of_likelihood


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModalityMeta(_Strict):
    """Of one modality; what is left out is inferred."""

    kind: Literal["image", "vector", "binary", "tokens", "counts"] | None = None
    likelihood: Literal["laplace", "normal", "bernoulli", "categorical", "poisson", "negative_binomial"] | None = None
    network: Literal["auto", "conv", "conv4", "mlp", "residual", "text"] | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["learned"] | None = None
    classes: int | None = Field(None, ge=2)
    weight: float | None = Field(None, ge=0, allow_inf_nan=False)
    output: Literal["identity", "sigmoid"] | None = None
    alphabet: str | None = Field(None, min_length=2)
    padding: str | None = Field(None, min_length=1, max_length=1)
    missing_nan: bool | None = None
    allow_constant: bool | None = None

    @field_validator("alphabet")
    @classmethod
    def _can_be_read(cls, alphabet: str | None) -> str | None:
        for number, character in enumerate(alphabet or ""):
            if character in (alphabet or "")[:number]:
                raise ValueError(f"the character {character!r} is there twice")
            if not character.isprintable():
                raise ValueError(f"the character {character!r} cannot be printed")
        return alphabet

    @model_validator(mode="after")
    def _fits_the_alphabet(self) -> ModalityMeta:
        if self.alphabet is None:
            if self.padding is not None:
                raise ValueError(f"padding {self.padding!r} without an alphabet that it is of")
            return self
        if self.classes not in {None, len(self.alphabet)}:
            raise ValueError(f"an alphabet of {len(self.alphabet)} characters for {self.classes} classes, not as many")
        if self.padding is not None and self.padding not in self.alphabet:
            raise ValueError(f"the alphabet lacks the padding {self.padding!r}")
        return self


class Meta(_Strict):
    """Of a whole data set.

    Attributes:
        modalities: name to what is said of it.
        missing_nan: whether an item of which a value of a modality is NaN lacks that modality; else it is an error.
        allow_constant: whether a modality may have one value everywhere.
        label_names: of the attributes, where labels are attributes.
    """

    modalities: dict[str, ModalityMeta] = Field(default_factory=dict)
    missing_nan: bool = False
    allow_constant: bool = False
    label_names: tuple[Annotated[str, Field(min_length=1)], ...] | None = None

    @field_validator("label_names")
    @classmethod
    def _no_two_alike(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = [name for number, name in enumerate(names or ()) if name in (names or ())[:number]]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice")
        return names

    def of(self, name: str) -> ModalityMeta:
        """What is said of a modality."""
        return self.modalities.get(name, ModalityMeta())

    def traits(self, name: str) -> Traits:
        """As a model needs it; the kind may follow from the likelihood, the classes of tokens from the alphabet."""
        said = self.of(name)
        return Traits(
            said.kind or kind_of_likelihood(said.likelihood) or (said.alphabet and "tokens"),
            said.likelihood,
            said.network,
            said.scale,
            len(said.alphabet) if said.alphabet else said.classes,
            weight=said.weight,
            output=said.output,
            alphabet=said.alphabet,
            padding=said.padding,
        )

    def allows(self, what: Literal["missing_nan", "allow_constant"], name: str) -> bool:
        """A switch, of the modality or else of the whole."""
        own = getattr(self.of(name), what)
        return bool(getattr(self, what) if own is None else own)

    def with_options(
        self, where: str, kinds: Mapping[str, str] | None, missing_nan: bool | None, allow_constant: bool | None
    ) -> Meta:
        """With what the loader's options say, which goes before what the file says.

        Raises:
            ValueError: for an unknown kind.
        """
        modalities = dict(self.modalities)
        for name, kind in (kinds or {}).items():
            if kind not in KINDS:
                raise ValueError(f"{where}: kinds of {name!r}: found {kind!r}, expected one of: {', '.join(KINDS)}")
            modalities[name] = self.of(name).model_copy(update={"kind": kind})
        switches = {"missing_nan": missing_nan, "allow_constant": allow_constant}
        given = {key: value for key, value in switches.items() if value is not None}
        return self.model_copy(update={"modalities": modalities, **given})

    def check_names(self, where: str, names: list[str]) -> None:
        """Refuse names that the data does not have.

        Raises:
            ValueError: in that case.
        """
        for name in self.modalities:
            if name not in names:
                raise ValueError(f"{where}: something is said of modality {name!r}, the data has {', '.join(names)}")


def read_meta(path: Path) -> Meta:
    """Read ``meta.yaml``; where there is none, nothing is said.

    Raises:
        ValueError: if it cannot be read or says what is not known; the message names the key.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Meta()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{path}{'' if mark is None else f', line {mark.line + 1}'}: not valid YAML") from None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({_one_line(error)})") from None
    return make_meta(str(path), tree)


def make_meta(where: str, tree: Any) -> Meta:
    """What a tree of YAML says.

    Raises:
        ValueError: for an unknown key or a wrong value, named.
    """
    try:
        return Meta.model_validate({} if tree is None else tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ModalityMeta if len(first["loc"]) > 1 else Meta
            raise ValueError(f"{where}: {key}: no such key; there are {', '.join(known.model_fields)}") from None
        found = " ".join(repr(first["input"]).split())[:80]
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {key or 'the whole'}: {message}, found {found}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
