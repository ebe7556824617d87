"""The base class of objectives that draw the latents themselves, and the terms that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pyro import poutine
from torch.distributions import kl_divergence

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.base import Objective
from pyro_mmvae.training.objectives.subset_posteriors import SubsetPosteriors
from pyro_mmvae.vae.encoders_decoders import PrivateExpert
from pyro_mmvae.vae.generative import Distributions
from pyro_mmvae.vae.names import private_site, site_modality
from pyro_mmvae.vae.vae import MultimodalVAE

Latents: TypeAlias = Tensor | Mapping[str, Tensor]
"""One latent for all modalities, `(*draw, item, latent)`, or modality name to a latent of its own."""


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction terms of a batch.

    Attributes:
        log_likelihood: Modality name to log p(x_m | z, u_m), `(*draw, item)`; 0 where the modality is absent.
        weights: Modality name to w_m.
    """

    log_likelihood: Mapping[str, Tensor]
    weights: Mapping[str, Any]

    def total(self) -> Tensor | float:
        """Return the sum of w_m log p(x_m | z, u_m), `(*draw, item)`."""
        return sum((self.weights[name] * value for name, value in self.log_likelihood.items()), 0.0)

    def times(self, coefficients: Mapping[str, Tensor]) -> Reconstruction:
        """Return the terms multiplied by coefficients `(draw, item)` and summed over the draws.

        Args:
            coefficients: Modality name to coefficients.
        """
        terms = {name: (coefficients[name] * value).sum(0) for name, value in self.log_likelihood.items()}
        return Reconstruction(terms, self.weights)


class LatentObjective(Objective):
    """An objective that draws the latents itself, and combines reconstruction and KL terms of its own.

    The penalties of the guide and the entropy of its expert weights enter as they do in the ELBO.

    Args:
        vae: The model and guide to train.

    Attributes:
        name: The name in messages; that of the class if empty.
        min_modalities: The least number of modalities, 2 by default.
        routings: The routings of gradients that the objective supports, see :class:`~pyro_mmvae.MultimodalVAE`.
        not_routed_since: The reason for which it does not support others, as a message gives it.

    Raises:
        ValueError: If the model has fewer modalities than the objective needs, or routes gradients in a way that the
            objective does not support.
    """

    name: str = ""
    min_modalities = 2
    routings: tuple[str, ...] = ("all",)
    not_routed_since: str = "it does not attach the routes to its draws"

    def __init__(self, vae: MultimodalVAE) -> None:
        super().__init__(vae)
        name = self.name or type(self).__name__
        if len(vae.names) < self.min_modalities:
            raise ValueError(
                f"objective {name!r} must have a model of at least {self.min_modalities} modalities, since its terms "
                f"are about posteriors of different subsets of them, got {len(vae.names)}: with one modality use the "
                "objective 'elbo'"
            )
        if vae.guide.routing not in self.routings:
            supported = " or ".join(map(repr, self.routings))
            raise ValueError(
                f"objective {name!r} must have a model with routing {supported}, since {self.not_routed_since}, got "
                f"{vae.guide.routing!r}, which the objectives elbo, masked and mvtcae support"
            )
        self.posteriors = SubsetPosteriors(vae)

    def check_draws(self, objective: str) -> None:
        """Check that the aggregation can draw subsets for training.

        Args:
            objective: The name of the objective, for the message.

        Raises:
            ValueError: If the weights of the subsets are learned, since their gradient would be lost in the draw.
        """
        try:
            self.posteriors.draw(self.posteriors.trial)
        except ValueError as error:
            raise ValueError(
                f"objective {objective!r} must have an aggregation whose subsets it can draw, got one that cannot: "
                f"{error}"
            ) from None

    @property
    def beta(self) -> float:
        """The weight β of the KL terms at the current step, which the warm-up of the trainer changes."""
        return self.vae.guide.beta

    def encode(self, batch: Batch) -> tuple[Experts, dict[str, PrivateExpert]]:
        """Return the experts of a batch, and loc and scale of the private latents that are trained.

        Args:
            batch: Items on the device of the model.
        """
        experts, private = self.vae.guide._encode(batch, None)
        weights = self.vae.model.reconstruction_weights
        return experts, {name: expert for name, expert in private.items() if weights[name] > 0}

    def private_posteriors(
        self,
        experts: Experts,
        private: Mapping[str, PrivateExpert],
        z: Latents,
        seen: Bool[Tensor, "*draw item modality"] | None = None,
    ) -> Distributions:
        """Return the distributions of the private latents that go with some shared latents.

        Args:
            experts: The unimodal posteriors of the items.
            private: Modality name to loc and scale of q(u_m | x_m).
            z: The shared latents, one for all modalities or one per modality.
            seen: True for the modalities whose u_m is inferred; elsewhere it is drawn from its auxiliary prior, without
                a KL term. By default wherever the modality is present.

        Returns:
            Modality name to a distribution of batch shape `(*draw, item)`.
        """
        seen = experts.mask if seen is None else seen
        result: Distributions = {}
        for name, expert in private.items():
            latents = z if isinstance(z, Tensor) else z[name]
            result |= self.vae.guide.private_latents.posteriors({name: expert}, latents, seen, training=True)
        return result

    def draw_private(
        self,
        experts: Experts,
        private: Mapping[str, PrivateExpert],
        z: Latents,
        seen: Bool[Tensor, "*draw item modality"] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Float[Tensor, "*draw item"]]]:
        """Draw the private latents that go with some shared latents, see :meth:`private_posteriors`.

        Returns:
            Modality name to private latents `(*draw, item, private)`, and to their KL divergences from the prior.
        """
        posteriors = self.private_posteriors(experts, private, z, seen)
        kl = {name: kl_divergence(q, self.vae.model.private_prior(name)) for name, q in posteriors.items()}
        return {name: q.rsample() for name, q in posteriors.items()}, kl

    def reconstruct(self, batch: Batch, z: Latents, private: Mapping[str, Tensor]) -> Reconstruction:
        """Run the program of the model at given latents, and return its reconstruction terms.

        A mapping of latents decodes each modality once, from a latent of its own.

        Args:
            batch: Items on the device of the model.
            z: The shared latents, one for all modalities or one per modality.
            private: Modality name to private latents of the draws and items of z.
        """
        if isinstance(z, Tensor):
            runs = [(batch, z)]
        else:
            runs = [(batch.select([name]), z[name]) for name in self.vae.names if name in batch.values]
        terms: dict[str, Tensor] = {}
        weights: dict[str, Any] = {}
        for part, latents in runs:
            given = {"z": latents, **{private_site(name): u for name, u in private.items()}}
            trace = poutine.trace(poutine.condition(self.vae.model.forward, data=given)).get_trace(part)
            for site, node in trace.nodes.items():
                is_observation = node["type"] == "sample" and node["is_observed"] and site not in given
                if is_observation and not node["infer"].get("is_auxiliary"):
                    terms[site_modality(site)] = node["fn"].log_prob(node["value"])
                    weights[site_modality(site)] = node["scale"]
        return Reconstruction(terms, weights)

    def penalties(self, experts: Experts, members: Bool[Tensor, "item modality"] | None) -> dict[str, Tensor]:
        """Return the terms of the guide that are added to the loss, `(item,)`, by name.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset of each item that was drawn; None for everything present.
        """
        return self.vae.guide.penalty_terms(experts, members)

    def loss_and_terms(
        self,
        value: Float[Tensor, " item"],
        log_likelihood: Mapping[str, Tensor],
        kl: Float[Tensor, " item"],
        penalties: Mapping[str, Tensor],
        recorded: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Terms]:
        """Return the loss of a batch and its terms, from those of the items.

        Args:
            value: The objective of each item without penalties.
            log_likelihood: Modality name to the reconstruction term of each item, without weights.
            kl: The KL term of each item, without weights.
            penalties: The terms that are added to the loss, by name.
            recorded: Further terms that ``value`` contains already, by name; none by default.
        """
        loss = -value.sum()
        for penalty in penalties.values():
            loss = loss + penalty.sum()
        terms = Terms(
            {name: term.detach().sum() for name, term in log_likelihood.items()},
            kl.detach().sum(),
            {name: term.detach().sum() for name, term in {**penalties, **(recorded or {})}.items()},
        )
        return loss, terms


def total(terms: Mapping[str, Tensor], zero: Tensor) -> Tensor:
    """Return the sum of terms by name, a tensor also if there are none.

    Args:
        terms: The terms by name, of one shape.
        zero: A tensor of zeros to start from.
    """
    return sum(terms.values(), zero)


def check_number(objective: str, name: str, value: Any, least: float, most: float = float("inf")) -> float:
    """Return an option of an objective as a float, after a check of its range.

    Args:
        objective: The name of the objective, for the message.
        name: The name of the option, for the message.
        value: The value that was given.
        least: The least value that is allowed.
        most: The largest value that is allowed; none by default.

    Raises:
        ValueError: If the value is not a finite number in the range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or value in (float("inf"), float("-inf")):
        bounds = f"at least {least:g}" if most == float("inf") else f"between {least:g} and {most:g}"
        raise ValueError(f"option {name!r} of objective {objective!r} must be a number {bounds}, got {value!r}")
    return cast("float", value)
