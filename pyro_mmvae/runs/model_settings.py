"""The section ``model`` of a configuration: the aggregation, the modalities and the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from pyro_mmvae.aggregation.subsets import check_subset_weights
from pyro_mmvae.modality_spec import ModalitySpec, ScaleSetting
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.setting_values import Section, frozen, with_numbers
from pyro_mmvae.vae.priors import STANDARD, make_prior
from pyro_mmvae.vae.private_latents import auxiliary_scale


@dataclass(frozen=True)
class NetworkConfig(NetworkOptions):
    """The options of all networks, see :class:`~pyro_mmvae.networks.NetworkOptions`, whose defaults it has.

    Attributes:
        name: Name of the networks of the modalities that have no other; ``auto`` leaves them to data and shapes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = "auto"


class AggregationConfig(BaseModel):
    """An aggregation by name; every other key is a keyword of it, see :func:`pyro_mmvae.make_aggregation`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="Name of the aggregation.")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        return with_numbers(values)

    def __str__(self) -> str:
        """Return the name and the options, as a label."""
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in (self.model_extra or {}).items())})"


class ModelConfig(Section):
    """The generative model and the guide; settings of one modality in ``modalities`` take precedence."""

    aggregation: str | AggregationConfig = Field(
        "wb", description="Aggregation of the experts: its name, or a mapping with name and options."
    )
    bound: Literal["mixture", "component", "subsets"] = Field(
        "component",
        description="Training bound: the ELBO of the whole mixture, of one component drawn per item, or of one subset "
        "drawn per item under every aggregation.",
    )
    latent_size: int = Field(32, ge=1, description="Number of latent dimensions that the modalities share.")
    private_size: int = Field(
        0, ge=0, description="Number of latent dimensions that each modality alone has, in addition to the shared ones."
    )
    private_auxiliary: str = Field(
        "learned",
        description="Distribution of private latents that training does not infer: learned, a Gaussian with a learned "
        "scale; learned:SCALE, such as learned:1, to start from another scale than 0.1; or prior.",
    )
    private_subsets: Literal["auto", "drawn", "all"] = Field(
        "auto",
        description="Modalities whose private latents training infers: a drawn subset of each item's, or all of them; "
        "auto draws with a bound that draws subsets.",
    )
    private_encoder: Literal["own", "with_z"] = Field(
        "own", description="Inputs of the posterior of a private latent: its own modality, or also the shared latent."
    )
    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="Weight of the KL term in training.")
    likelihood: str = Field(
        "auto", description="Likelihood of images and vectors; auto leaves it to the data and the type of the modality."
    )
    scale: ScaleSetting | Literal["auto"] = Field(
        "auto",
        description="Scale of the likelihoods of images and vectors: a number, learned, calibrated, or "
        "calibrated_per_feature, the last two also with the scale of the training as in calibrated:0.75; auto takes "
        "the default of the modality's type.",
    )
    reconstruction_weights: dict[str, float] = Field(
        default_factory=dict, description="Weight of the reconstruction term in training, by name of the modality."
    )
    modalities: dict[str, ModalitySpec] = Field(
        default_factory=dict, description="Settings of single modalities, by name of the modality."
    )
    expert_weights: tuple[float, ...] | Literal["learned", "precision", "gate"] | None = Field(
        None,
        description="Weights of the experts: one number per modality, or how they are learned; equal if null.",
    )
    subset_weights: str = Field(
        "uniform",
        description="Weights of the subsets in a mixture: uniform; by_size, each size equally likely; singles:SHARE, "
        "such as singles:0.5, this share of the weight on single modalities; or learned.",
    )
    expert_weights_entropy: float = Field(
        0.0, ge=0, allow_inf_nan=False,
        description="Coefficient of the entropy of the expert weights that is added to the objective, in nats.",
    )  # fmt: skip
    routing: Literal["all", "leave_one_out"] = Field(
        "all",
        description="Encoders that the gradient of a decoder reaches through the shared latent: all, or all but that "
        "of its own modality.",
    )
    prior_expert: Literal["none", "complete", "joint_only", "all"] | None = Field(
        None, description="Subsets in which the prior is one more expert; null for the default of the aggregation."
    )
    prior: str | dict[str, Any] = Field(
        "standard",
        description="Prior of the shared latent: standard, of mean 0 and scale 1; or mixture, Gaussians that are "
        "trained with the model, or a mapping with name and the options components and init.",
    )
    network: NetworkConfig = Field(NetworkConfig(), description="Options of all encoders and decoders.")

    @field_serializer("modalities")
    def _without_none(self, modalities: dict[str, ModalitySpec]) -> dict[str, dict[str, Any]]:
        return {name: spec.settings() for name, spec in modalities.items()}

    @field_validator("subset_weights")
    @classmethod
    def _check_subset_weights(cls, value: str) -> str:
        try:
            check_subset_weights(value)
        except ValueError as error:
            message = str(error).removeprefix("subset_weights ").replace(" or a function", "")
            raise ValueError(message) from None
        return value

    @field_validator("private_auxiliary")
    @classmethod
    def _check_private_auxiliary(cls, value: str) -> str:
        try:
            auxiliary_scale(value)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("private_auxiliary ")) from None
        return value

    @field_validator("aggregation", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, (str, AggregationConfig)):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"must be a name, or a mapping with a name and options, got {value!r}")
        return value["name"] if len(value) == 1 else frozen(value)

    @field_validator("prior", mode="before")
    @classmethod
    def _known_prior(cls, value: Any) -> Any:
        if value is None:
            return STANDARD
        if not isinstance(value.get("name") if isinstance(value, Mapping) else value, str):
            raise ValueError(f"must be a name, or a mapping with a name and options, got {value!r}")
        make_prior(value)
        return value["name"] if isinstance(value, Mapping) and len(value) == 1 else value

    @property
    def aggregation_options(self) -> str | dict[str, Any]:
        """The aggregation as :func:`pyro_mmvae.make_aggregation` takes it: a name, or a mapping with a name."""
        return self.aggregation if isinstance(self.aggregation, str) else self.aggregation.model_dump()
