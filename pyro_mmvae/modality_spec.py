"""The description of a modality that meta.yaml, configurations, data sets, checkpoints and models share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field

from pyro_mmvae.batch import RESERVED
from pyro_mmvae.likelihoods import (
    LIKELIHOODS,
    OUTPUTS,
    SCALE_NAMES,
    LikelihoodEntry,
    calibrated_name,
    check_option,
    parse_calibrated,
)

DATA_TYPES = ("image", "vector", "binary", "tokens", "counts")

DEFAULT_LIKELIHOODS: Mapping[str, str] = {
    "image": "normal",
    "vector": "normal",
    "binary": "bernoulli",
    "tokens": "categorical",
    "counts": "negative_binomial",
}
"""The likelihood of each data type if none is set; that of pixels is ``laplace``."""

PIXEL_SCALE = 0.75
"""Scale of a Laplace or Normal likelihood of pixels in [0, 1]: that of PolyMNIST (Sutter et al., 2021)."""

_LEAST_GREY = 8
"""The smallest side of an array of bytes that is taken for a grey image without a channel axis."""

_LEAST = {"classes": 2, "width": 1, "hidden": 1, "depth": 0, "private_size": 0}

ScaleSetting: TypeAlias = (
    float
    | Literal["learned"]
    | Annotated[
        str, Field(pattern=r"^calibrated(_per_feature)?(:.+)?$", examples=["calibrated", "calibrated_per_feature"])
    ]
)
"""A number, or the name of a scale that is learned or calibrated."""

Spec = TypeVar("Spec", bound="ModalitySpec")


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """A description of one modality, in which every field that is None is left to others or to the defaults.

    It has the same fields in ``meta.yaml``, in ``model.modalities.NAME`` of a configuration, in
    ``MultimodalDataset.modality_specs``, in a checkpoint, and, with a name and a shape, in
    :class:`~pyro_mmvae.Modality`. :func:`resolve_modality` merges several and fills in the defaults.

    Attributes:
        data_type: Type of the values. An ``image`` is `(channel, height, width)`, a ``vector`` any array of floats,
            ``binary`` an array of numbers in [0, 1], ``tokens`` integers from 0 to ``classes - 1``, and ``counts``
            integers from 0. By default it follows from the likelihood and from the type and shape of the values.
        likelihood: Name of a likelihood, see ``pyro_mmvae.likelihoods.LIKELIHOODS``; it follows from the data type.
        network: Name of a pair of an encoder and a decoder, see :func:`pyro_mmvae.networks.make_networks`; ``auto``
            chooses by shape, the default for images, binary arrays and tokens. Otherwise ``mlp``.
        encoder: Name of a registered encoder, in place of that of the network.
        decoder: Name of a registered decoder, in place of that of the network.
        width: Width of the networks, in place of the model's, see :class:`~pyro_mmvae.networks.NetworkOptions`.
        hidden: Size of hidden layers of the networks, in place of the model's.
        depth: Number of hidden layers of the networks, in place of the model's.
        private_size: Number of latent dimensions that this modality alone has. 0 by default.
        scale: Scale of a Laplace or Normal likelihood: a positive number, ``"learned"``, ``"calibrated"`` for the mean
            residual, or ``"calibrated_per_feature"``; 0.75 for pixels, otherwise learned. A calibrated scale may name
            the scale that the networks are trained with, as in ``"calibrated:0.75"``, the default for pixels; otherwise
            1. It is relative to the spread of a feature if the modality is standardized.
        output: Link of a Laplace or Normal likelihood, ``identity``, the default, or ``sigmoid`` for means in [0, 1].
        standardize: If True, networks see values that are standardised by the moments of the training data, while
            draws, means and densities stay in the units of the data, see
            :class:`~pyro_mmvae.likelihoods.StandardizedLikelihood`. By default, training from a configuration does so
            for vectors with a Laplace or Normal likelihood and ``output`` other than ``sigmoid``;
            :class:`~pyro_mmvae.Modality` alone, which knows no data, does not.
        classes: Number of classes of tokens; by default the number of characters of the alphabet, or one more than the
            largest token in the training data.
        reference_total: Total of an item of counts whose total is unknown; by default the median total of the training
            data.
        reconstruction_weight: Weight w_m of the reconstruction term in training, 1 by default; 0 leaves the site out.
        pixels: True if images hold intensities in [0, 1], which decides the default likelihood and scale. By default
            that is so for uint8, which is divided by 255, and for images of which no data is known.
        alphabet: Characters that tokens stand for, in order, if they are text.
        padding: Character of the alphabet that fills up shorter texts, and is left out where texts are shown.
        tokenizer: Tokenizer in place of an alphabet: the content of a file ``tokenizer.json``; where data are read,
            also the path of such a file, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the texts.

    Raises:
        ValueError: If a value is out of its range.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    data_type: str | None = None
    likelihood: str | None = None
    network: str | None = None
    encoder: str | None = None
    decoder: str | None = None
    width: int | None = None
    hidden: int | None = None
    depth: int | None = None
    private_size: int | None = None
    scale: ScaleSetting | None = None
    output: str | None = None
    standardize: bool | None = None
    classes: int | None = None
    reference_total: float | None = None
    reconstruction_weight: float | None = None
    pixels: bool | None = None
    alphabet: str | None = None
    padding: str | None = None
    tokenizer: str | None = field(default=None, repr=False)  # of thousands of characters

    def __post_init__(self) -> None:
        """Check each value by itself; names of parts are looked up later, when plugins have been imported."""
        for name, message in self._problems():
            value = getattr(self, name)
            raise ValueError(f"{self._label}{name} must be {message}, got {value!r}")

    @property
    def _label(self) -> str:
        """The beginning of an error message."""
        return ""

    def _problems(self) -> list[tuple[str, str]]:
        """Return the names of the fields with a wrong value, each with a description of what it must be."""
        problems = []
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append((name, f"at least {least}"))
        if self.data_type is not None and self.data_type not in DATA_TYPES:
            problems.append(("data_type", f"one of {', '.join(DATA_TYPES)}"))
        if self.output is not None and self.output not in OUTPUTS:
            problems.append(("output", f"one of {', '.join(OUTPUTS)}"))
        is_named = self.scale in {None, "learned"} or parse_calibrated(self.scale) is not None
        if not is_named and not _is_positive(self.scale):
            problems.append(("scale", f"a positive number, {SCALE_NAMES}"))
        if self.reference_total is not None and not _is_positive(self.reference_total):
            problems.append(("reference_total", "positive and finite"))
        weight = self.reconstruction_weight
        if weight is not None and not (weight >= 0 and math.isfinite(weight)):
            problems.append(("reconstruction_weight", "finite and not negative"))
        return problems + self._problems_of_text()

    def _problems_of_text(self) -> list[tuple[str, str]]:
        alphabet, padding = self.alphabet, self.padding
        problems = []
        if alphabet is not None:
            if len(alphabet) < 2 or len(set(alphabet)) < len(alphabet) or not alphabet.isprintable():
                problems.append(("alphabet", "two or more different printable characters"))
            elif self.classes not in {None, len(alphabet)}:
                problems.append(("classes", f"{len(alphabet)}, the number of characters of the alphabet"))
        if padding is not None and (len(padding) != 1 or padding not in (alphabet or "")):
            problems.append(("padding", "one character of the alphabet"))
        if alphabet is not None and self.tokenizer is not None:
            problems.append(("alphabet", "None beside a tokenizer"))
        return problems

    def updated(self: Spec, other: ModalitySpec) -> Spec:
        """Return a copy with the fields of another description that are not None.

        Args:
            other: The description that takes precedence.
        """
        changes = {field.name: getattr(other, field.name) for field in fields(ModalitySpec)}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def settings(self) -> dict[str, Any]:
        """Return the fields that are not None, by name, as JSON and YAML can hold them."""
        values = {field.name: getattr(self, field.name) for field in fields(ModalitySpec)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_text(self) -> bool:
        """True if tokens `(position,)` of the modality stand for a text, by an alphabet or a tokenizer."""
        return self.alphabet is not None or self.tokenizer is not None

    @property
    def implied_data_type(self) -> str | None:
        """The data type that was set or that alphabet, tokenizer or likelihood imply; None if they leave several."""
        if self.data_type is not None:
            return self.data_type
        if self.is_text:
            return "tokens"
        entry = _entry_of(self)
        return entry.data_types[0] if entry is not None and len(entry.data_types) == 1 else None


def resolve_modality(spec: Spec, *overrides: ModalitySpec, where: str, shape: tuple[int, ...] | None = None) -> Spec:
    """Merge descriptions of one modality, check that they fit together, and fill in the defaults.

    Args:
        spec: The description with the lowest precedence, usually that of the data. Its type is that of the result.
        *overrides: Further descriptions, in the order of their precedence.
        where: Beginning of error messages, such as a key of a configuration.
        shape: Shape of one item, from which the data type follows if nothing else says it: an image if it has three
            axes, otherwise a vector. None by default, which requires that the data type is known.

    Returns:
        A description in which data type, likelihood, network, private size and reconstruction weight are set, and the
        scale if the likelihood takes one. Classes and reference total may be None, see
        :func:`pyro_mmvae.data.complete_specs`. To resolve it again changes nothing.

    Raises:
        ValueError: If a likelihood is unknown or does not fit the data type, or a setting is of no use to either.
    """
    try:
        for override in overrides:
            spec = spec.updated(override)
        entry = _entry_of(spec)
        data_type = spec.implied_data_type or _guess_data_type(entry, shape)
        pixels = data_type == "image" and spec.pixels is not False
        likelihood = spec.likelihood or ("laplace" if pixels else DEFAULT_LIKELIHOODS[data_type])
        if isinstance(likelihood, str):
            entry = LIKELIHOODS.lookup(likelihood)
            _check_fit(spec, data_type, likelihood, entry)
        takes_scale = entry is not None and "scale" in entry.options
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    defaults = ModalitySpec(
        data_type=data_type,
        likelihood=likelihood,
        network="auto" if data_type in {"image", "binary", "tokens"} else "mlp",
        private_size=0,
        scale=None if not takes_scale else PIXEL_SCALE if pixels else "learned",
        classes=len(spec.alphabet) if spec.alphabet else None,
        reconstruction_weight=1.0,
        pixels=pixels if data_type == "image" else None,
    )
    missing = {name: value for name, value in defaults.settings().items() if getattr(spec, name) is None}
    calibrated = parse_calibrated(spec.scale)
    if calibrated is not None and calibrated[1] is None:
        missing["scale"] = calibrated_name(calibrated[0], PIXEL_SCALE if pixels else 1.0)
    return replace(spec, **missing)


def infer_data_type(where: str, dtype_kind: str, is_byte: bool, shape: tuple[int, ...]) -> str:
    """Return the data type of values of which nothing was said, by their type and the shape of one item.

    bool is ``binary``; floats are ``image`` with three axes and otherwise ``vector``; uint8 and uint16 with three axes,
    and uint8 with two axes of 8 or more, which are grey, are ``image``. Any other integers could be tokens, counts or
    numbers, which the values do not tell apart.

    Args:
        where: File and modality, the beginning of the error message.
        dtype_kind: NumPy's letter of the type: b, i, u or f.
        is_byte: If True, the type is one of pixels, uint8 or uint16.
        shape: Shape of one item.

    Raises:
        ValueError: If the values are integers other than an image.
    """
    is_image = len(shape) == 3 or (is_byte and len(shape) == 2 and min(shape) >= _LEAST_GREY)
    if dtype_kind == "b":
        return "binary"
    if dtype_kind == "f" or (is_byte and is_image):
        return "image" if is_image else "vector"
    raise ValueError(
        f"{where}: integers of shape (item, {', '.join(map(str, shape))}) may be tokens, counts or numbers: set "
        "data_type: tokens, counts or vector for it, in meta.yaml, by the option kinds, or by data_types of fit; "
        "images must be uint8 or uint16 (item, channel, height, width), or have data_type: image"
    )


def check_modality_name(name: str, where: str = "") -> None:
    """Check that a modality can have a name: any name of a file, since a modality may be stored in one.

    Args:
        name: The name to check.
        where: Beginning of the error message, such as a file; empty by default.

    Raises:
        ValueError: If the name is empty, ``present`` or ``covariates``, which are the mask and the covariates of a
            batch, ``.`` or ``..``, or has a slash, a backslash or characters that cannot be printed.
    """
    if (
        not isinstance(name, str)
        or name in {"", ".", "..", *RESERVED}
        or "/" in name
        or "\\" in name
        or not name.isprintable()
    ):
        raise ValueError(
            f"{where}{': ' if where else ''}the name of a modality must be a file name of printable characters other "
            f"than {' and '.join(map(repr, RESERVED))}, got {name!r}: rename it"
        )


def check_image(where: str, shape: tuple[int, ...]) -> None:
    """Check that items are images with the channels first.

    Args:
        where: File and modality, the beginning of the error message.
        shape: Shape of one item.

    Raises:
        ValueError: If there are not three axes, or the channels are last.
    """
    if len(shape) != 3:
        raise ValueError(f"{where}: found items of shape {shape}, expected images (channel, height, width)")
    few = {1, 3, 4}
    if shape[-1] in few and shape[0] not in few:
        raise ValueError(
            f"{where}: found items of shape {shape}, expected the channels first: (channel, height, width)"
        )


def _entry_of(spec: ModalitySpec) -> LikelihoodEntry | None:
    """Return the registered likelihood of a description; None for no name, an unknown one, or a module in its place."""
    return LIKELIHOODS.get(spec.likelihood) if isinstance(spec.likelihood, str) else None


def _guess_data_type(entry: LikelihoodEntry | None, shape: tuple[int, ...] | None) -> str:
    if shape is None:
        raise ValueError(f"data_type must be one of {', '.join(DATA_TYPES)}, got None")
    by_shape = "image" if len(shape) == 3 else "vector"
    if entry is None or not entry.data_types or by_shape in entry.data_types:
        return by_shape
    return entry.data_types[0]


def _check_fit(spec: ModalitySpec, data_type: str, likelihood: str, entry: LikelihoodEntry) -> None:
    if entry.data_types and data_type not in entry.data_types:
        fitting = [name for name, other in LIKELIHOODS.items() if data_type in (other.data_types or DATA_TYPES)]
        raise ValueError(
            f"likelihood {likelihood!r} does not fit data_type {data_type!r}, which takes {' or '.join(fitting)}; "
            "another data_type is set where the data come from"
        )
    owners = {"alphabet": "tokens", "tokenizer": "tokens", "classes": "tokens", "reference_total": "counts"}
    for setting, owner in {**owners, "pixels": "image"}.items():
        value = getattr(spec, setting)
        if value is not None and data_type != owner:
            shown = value[:40] if isinstance(value, str) else value
            raise ValueError(f"{setting} must be left out for data_type {data_type!r}, got {shown!r}")
    if spec.scale is not None:
        check_option(likelihood, "scale", spec.scale)
    if spec.output not in {None, "identity"}:
        check_option(likelihood, "output", spec.output)
    if spec.standardize:
        check_option(likelihood, "standardize", spec.standardize)
        if spec.output == "sigmoid":
            raise ValueError("standardize must be False for output 'sigmoid', whose means are in [0, 1], got True")


def _is_positive(value: Any) -> bool:
    return not isinstance(value, str) and value > 0 and math.isfinite(value)
