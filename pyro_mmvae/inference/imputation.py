"""Imputation of modalities that items lack, with the uncertainty of the posterior predictive distribution."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.tokenizer import decode_to_array
from pyro_mmvae.experts import Experts
from pyro_mmvae.files import write_text
from pyro_mmvae.inference.completed import describe_completed, to_storage
from pyro_mmvae.inference.encoding import CHUNK, Progress, chunk_size
from pyro_mmvae.inference.imputed import SUMMARY_FILE, Imputation, read_imputation
from pyro_mmvae.inference.items import (
    Items,
    ItemsLike,
    batch_multiple,
    check_shapes,
    choose_given,
    seeded_chunk,
    select_items,
)
from pyro_mmvae.inference.posteriors import density_of, private_posteriors, select, subset_posterior
from pyro_mmvae.inference.predictive import PredictiveFigures, Summary, summarise_predictive
from pyro_mmvae.inference.stores import FolderStore, MemoryStore, Store, new_folder
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.vae import MultimodalVAE

_STORED = 2**24
"""The largest number of values of a modality that the draws of one chunk may take, 64 MiB in float32."""

_METHOD = (
    "mean and sd: over draws of the latent, with the variance of the likelihood added in closed form where it has one; "
    "quantiles: of draws of the observations, one per draw of the latent; private latents of imputed modalities: from "
    "their priors; counts: of an item with the reference total; observed values: copied, with sd 0"
)
_METHOD_OF_COVARIATES = (
    "with covariates: observed values are decoded anew under the requested categories, with their private latents from "
    "the posteriors given the observation; encoders see each item's own categories"
)


@torch.no_grad()
def impute(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    items: ItemsLike = None,
    given: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    covariates: Mapping[str, str] | None = None,
    draws: int = 20,
    quantiles: Sequence[float] = (),
    multiple: bool = False,
    density: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
    folder: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Imputation:
    """Impute modalities of items from the posterior predictive distribution given what was observed of them.

    A target of an item is imputed if the item lacks it, or if it is not in ``given``; otherwise its observed value is
    copied. See :func:`~pyro_mmvae.inference.predictive.summarise_predictive` for mean, standard deviation and
    quantiles. An item without any modality in ``given`` is imputed from the prior.

    With ``covariates`` the targets are decoded as if all items were of these categories, while the encoders see each
    item's own; its categories of other covariates are kept. Every target of every item is then imputed, observed or
    not, which removes the effect of the covariate from it as far as the model has learned it.

    Args:
        vae: The model, in eval mode.
        data: The data set that holds the items.
        items: The selection of items, see :func:`~pyro_mmvae.inference.items.select_items`; all by default.
        given: The modalities whose observations are used and kept; all by default.
        targets: The modalities to impute; all by default.
        covariates: The category to decode by the name of the covariate, such as ``{"donor": "A"}``; by default, and
            for covariates left out, each item's own.
        draws: The number of draws of the latent per item, at least 2; 20 by default.
        quantiles: The levels of the quantiles, between 0 and 1; none by default.
        multiple: If True, each draw also makes one complete data set, with observations drawn from the likelihood;
            False by default.
        density: ``"mixture"`` or ``"joint"``; by default the mixture unless it has too many components.
        batch_size: The number of items to read at once, 500 by default.
        seed: The seed of all draws, 0 by default; the states of torch's generators are restored afterwards.
        folder: A folder to write to, part by part; by default everything is kept in memory.
        force: If True, a folder that this function wrote before is replaced; False by default.
        progress: A callback that receives the number of items of each finished batch.

    Returns:
        The imputed modalities.

    Raises:
        ValueError: If a name or a number is not allowed, nothing is to be imputed, or the data does not fit the model.
        FileExistsError: If the folder exists and may not be replaced.
    """
    levels = _check_numbers(draws, quantiles)
    check_shapes(vae, data)
    chosen, names = select_items(data, items), choose_given(vae, given)
    wanted_names = choose_given(vae, targets, "targets")
    requested = vae.covariate_vector(covariates) if covariates else None
    imputed = _find_imputed(vae, chosen, () if covariates else names, wanted_names)
    job = _Job(vae, chosen, names, imputed, draws, PredictiveFigures(levels, multiple), density, seed, requested)
    summary = {
        "method": _METHOD, "names": list(vae.names), "given": list(names), "items": len(chosen),
        "imputed": dict(zip(vae.names, imputed.sum(0).tolist(), strict=True)), "draws": draws,
        "quantiles": list(levels), "multiple": multiple, "seed": seed,
        "density": density or density_of(vae, len(vae.names)),
    }  # fmt: skip
    if covariates:
        summary |= {"covariates": dict(covariates), "method": f"{_METHOD}; {_METHOD_OF_COVARIATES}"}
    if folder is None:
        memory = MemoryStore()
        job.run(memory, batch_size, progress)
        return Imputation(chosen.ids, vae.names, imputed, memory.arrays(), summary)
    with new_folder(folder, SUMMARY_FILE, force=force) as temporary:
        store = FolderStore(temporary, len(chosen))
        store.append("ids", chosen.ids)
        store.append("imputed", imputed)
        job.run(store, batch_size, progress)
        for number in range(draws if multiple else 0):
            describe_completed(temporary / _draw_name(number), vae, chosen, imputed)
        write_text(temporary / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return read_imputation(folder)


def _check_numbers(draws: int, quantiles: Sequence[float]) -> tuple[float, ...]:
    if draws < 2:
        raise ValueError(f"draws must be at least 2, so that there is a standard deviation, got {draws}")
    for level in quantiles:
        if not 0 < level < 1:
            raise ValueError(f"quantiles must be between 0 and 1, got {level}")
    return tuple(sorted(set(quantiles)))


def _find_imputed(vae: MultimodalVAE, items: Items, given: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
    """Return True for each modality of each item that is to be imputed."""
    is_given = np.array([name in given for name in vae.names])
    is_target = np.array([name in targets for name in vae.names])
    imputed = is_target & ~(items.present(vae.names) & is_given)
    if not imputed.any():
        raise ValueError(
            f"targets must be absent from some item, got items that have {', '.join(targets)}: leave what is to be "
            f"imputed out of given (--given) to impute it as if it were absent"
        )
    return cast("NDArray[np.bool_]", imputed)


@dataclass(frozen=True, eq=False)
class _Job:
    """One imputation, chunk by chunk."""

    vae: MultimodalVAE
    items: Items
    given: tuple[str, ...]
    imputed: NDArray[np.bool_]
    draws: int
    figures: PredictiveFigures
    density: str | None
    seed: int
    requested: Tensor | None = None

    def run(self, store: Store, batch_size: int, progress: Progress | None) -> None:
        """Impute all items and append the results to a store."""
        device = next(self.vae.parameters()).device
        targets = [name for m, name in enumerate(self.vae.names) if self.imputed[:, m].any()]
        read = self.vae.names if self.figures.draws else [n for n in self.vae.names if n in {*self.given, *targets}]
        for part in self.items.parts(batch_multiple(batch_size, CHUNK)):
            batch = self.items.read(part, read, device)
            count = part.stop - part.start
            experts = self.vae.guide.experts(batch.select(self.given), num_items=count)
            size = self._chunk_size(experts, targets)
            for start in range(0, count, size):
                chunk = slice(start, min(start + size, count))
                self._impute_chunk(store, batch, experts, chunk, part.start, targets)
            if progress is not None:
                progress(count)

    def _chunk_size(self, experts: Experts, targets: Sequence[str]) -> int:
        """Return the number of items to impute at once, so that their draws fit into memory."""
        stored = self.draws if self.figures.draws or self.figures.quantiles else 1
        values = max(math.prod(_likelihood(self.vae, name).shape) for name in targets) * stored
        most = min(chunk_size(self.vae, experts, self.density), max(_STORED // values, 1))
        return next(size for size in range(most, 0, -1) if CHUNK % size == 0)

    def _impute_chunk(
        self, store: Store, batch: Batch, experts: Experts, chunk: slice, offset: int, targets: Sequence[str]
    ) -> None:
        first = offset + chunk.start
        imputed = torch.from_numpy(self.imputed[first : offset + chunk.stop]).to(experts.loc.device)
        rows = imputed.any(-1).nonzero()[:, 0]
        here = [name for name in targets if bool(imputed[:, self.vae.names.index(name)].any())]
        summaries: dict[str, Summary] = {}
        if here:
            posterior = subset_posterior(self.vae, select(experts, chunk), range(experts.num_modalities), self.density)
            with seeded_chunk(experts.loc.device, self.seed, first):
                z = posterior.sample(torch.Size((self.draws,)))
                private = {name: u[:, rows] for name, u in self._private_draws(batch, here, chunk, z).items()}
                known = self._decoded_covariates(batch, chunk, rows)
                summaries = summarise_predictive(
                    self.vae, z[:, rows], here, self.figures, covariates=known, private=private
                )
        for name in targets:
            mask = imputed[:, self.vae.names.index(name)]
            figures = self._figures(name, _observed(self.vae, batch, name, chunk, len(mask)), mask, rows, summaries)
            for key, value in figures.items():
                store.append(f"{key}/{name}", value)
        if self.figures.draws:
            self._append_completed(store, batch, chunk, first, imputed, rows, summaries)

    def _decoded_covariates(self, batch: Batch, chunk: slice, rows: Tensor) -> Tensor | None:
        """Return the covariates to decode some items of a chunk with."""
        own = None if batch.covariates is None else batch.covariates[chunk][rows]
        if self.requested is None:
            return own
        return self.vae.model.covariates.replace(own, self.requested).expand(len(rows), -1)

    def _private_draws(self, batch: Batch, names: Sequence[str], chunk: slice, z: Tensor) -> dict[str, Tensor]:
        """Return draws of the private latents of modalities that were observed and are decoded anew."""
        if self.requested is None:
            return {}
        given = [self.vae.names.index(name) for name in self.given]
        found = private_posteriors(self.vae, batch.rows(chunk), given, names)(z)
        return {name: posterior.sample() for name, posterior in found.items()}

    def _figures(
        self,
        name: str,
        observed: Tensor,
        mask: Bool[Tensor, " item"],
        rows: Tensor,
        summaries: dict[str, Summary],
    ) -> dict[str, NDArray[Any]]:
        """Return the figures of one modality of a chunk, with observed values where it is not imputed."""
        summary, kept, chosen = summaries.get(name), mask[rows], mask
        likelihood = _likelihood(self.vae, name)

        def filled(value: Tensor, imputed: Tensor | None) -> Tensor:
            result = value.clone()
            if imputed is not None:
                result[chosen] = imputed[kept].to(result.dtype)
            return result

        if likelihood.is_categorical:
            mode = filled(observed.long(), None if summary is None else likelihood.point(summary.mean))
            largest = None if summary is None else summary.mean.amax(-1)
            figures = {"mode": mode, "probability": filled(torch.ones_like(observed), largest)}
            arrays = {key: value.cpu().numpy() for key, value in figures.items()}
            spec = self.vae.modalities[self.vae.names.index(name)]
            if spec.is_text and len(likelihood.shape) == 1:
                arrays["text"] = decode_to_array(mode, spec)
            return arrays
        values = {"mean": filled(observed, None if summary is None else summary.mean)}
        values["sd"] = filled(torch.zeros_like(observed), None if summary is None else summary.sd)
        for level in self.figures.quantiles:
            values[f"quantile-{level:g}"] = filled(observed, None if summary is None else summary.quantiles[level])
        return {key: value.cpu().numpy() for key, value in values.items()}

    def _append_completed(
        self,
        store: Store,
        batch: Batch,
        chunk: slice,
        first: int,
        imputed: Bool[Tensor, "item modality"],
        rows: Tensor,
        summaries: dict[str, Summary],
    ) -> None:
        """Append the chunk to each complete data set."""
        for m, name in enumerate(self.vae.names):
            if name not in self.items.data.names and name not in summaries and not self.imputed[:, m].any():
                continue
            observed = _observed(self.vae, batch, name, chunk, len(imputed))
            source = self.items.data.modalities.get(name)
            for number in range(self.draws):
                value = observed
                if name in summaries:
                    value, drawn = observed.clone(), cast("Tensor", summaries[name].draws)[number]
                    value[imputed[:, m]] = drawn[imputed[rows, m]].to(value.dtype)
                stored = to_storage(value, self.vae.modalities[m], None if source is None else source.dtype)
                store.append(f"{_draw_name(number)}/{name}", stored)


def _draw_name(number: int) -> str:
    return f"draw-{number:03d}"


def _likelihood(vae: MultimodalVAE, name: str) -> Likelihood:
    return cast("Likelihood", vae.model.likelihoods[name])


def _observed(vae: MultimodalVAE, batch: Batch, name: str, chunk: slice, count: int) -> Tensor:
    """Return the observed values of a modality of a chunk as floats, 0 where there are none."""
    if name in batch.values:
        return batch.values[name][chunk].float()
    return torch.zeros(count, *_likelihood(vae, name).shape, device=next(vae.parameters()).device)
