"""Surface proteins imputed from transcripts: a CITE-seq experiment in which 30 % of the cells lack the proteins.

The counts are simulated: six cell types of unequal size, a gradient within each type, library sizes that vary several
times over, 2,000 genes of which 300 highly variable ones are kept, and 20 proteins with an ambient background. Nothing
is told about the types in training. With ``out`` and the extra ``omics``, the counts are written to an ``.h5mu`` file
with the latent in ``obsm["X_mwb"]`` and the imputed proteins as a modality of their own.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro
import scipy.sparse
import torch
from numpy.typing import NDArray
from pyro.infer import SVI, Trace_ELBO

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.data import MultimodalDataset, from_arrays, make_batch
from pyro_mmvae.networks import NetworkOptions

CELLS, GENES, VARIABLE, PROTEINS = 1_200, 2_000, 300, 20
SHARES = (0.35, 0.25, 0.15, 0.12, 0.08, 0.05)  # of the cell types
WITHOUT_PROTEIN = 0.3
LATENT = 8


class Cells(NamedTuple):
    """A simulated experiment.

    Attributes:
        rna: Counts of transcripts, sparse, `(cell, gene)`.
        protein: Counts of proteins `(cell, protein)`, those of the cells without measured proteins too.
        measured: True for the cells whose proteins were measured, `(cell,)`.
        types: Cell type of each cell, which training does not see, `(cell,)`.
    """

    rna: scipy.sparse.csr_array
    protein: NDArray[np.float32]
    measured: NDArray[np.bool_]
    types: NDArray[np.int64]


def negative_binomial(rng: np.random.Generator, mean: NDArray[Any], theta: float) -> NDArray[np.float32]:
    """Draw counts of a mean and the variance mean + mean² / theta."""
    return rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape)).astype(np.float32)


def simulate(cells: int = CELLS, seed: int = 0) -> Cells:
    """Simulate transcripts and proteins of cells."""
    rng = np.random.default_rng(seed)
    types, state = rng.choice(len(SHARES), cells, p=SHARES), rng.normal(size=(cells, 1))
    is_marker = rng.random((len(SHARES), GENES)) < 0.04
    profile = rng.normal(0, 1.2, GENES) + is_marker * rng.normal(1.5, 0.6, is_marker.shape)
    gradient = (rng.random(GENES) < 0.03) * rng.normal(0, 0.6, GENES)
    rates = np.exp(profile[types] + state * gradient)
    library = rng.lognormal(np.log(2_500), 0.5, (cells, 1))
    rna = negative_binomial(rng, library * rates / rates.sum(1, keepdims=True), 3.0)
    expressed = rng.random((len(SHARES), PROTEINS)) < 0.35
    amount = expressed * rng.lognormal(3.5, 0.5, expressed.shape)
    with_state = 1 + np.tanh(state) * (rng.random(PROTEINS) < 0.3) * 0.7
    size = rng.lognormal(0, 0.3, (cells, 1))
    background = rng.lognormal(1.0, 0.6, PROTEINS)
    protein = negative_binomial(rng, size * (background + amount[types] * with_state), 8.0)
    return Cells(scipy.sparse.csr_array(rna), protein, rng.random(cells) > WITHOUT_PROTEIN, types)


def highly_variable(rna: scipy.sparse.csr_array, count: int = VARIABLE) -> NDArray[np.bool_]:
    """Return True for the genes whose variance exceeds that of Poisson counts most, relative to their mean."""
    totals = rna.sum(1).reshape(-1, 1)
    scaled = rna.toarray() * (np.median(totals) / totals)
    mean, variance = scaled.mean(0), scaled.var(0)
    score = np.where(mean > 0.05, (variance - mean) / np.maximum(mean, 1e-9) ** 2, -np.inf)
    return np.isin(np.arange(len(score)), np.argsort(score)[-count:])


def to_data(cells: Cells, genes: NDArray[np.bool_]) -> MultimodalDataset:
    """Return the data set of both modalities, in which the proteins of some cells are absent."""
    present = np.stack([cells.measured, np.ones_like(cells.measured)], -1)
    kinds = {"protein": {"data_type": "counts"}, "rna": {"data_type": "counts"}}
    values = {"protein": cells.protein * cells.measured[:, None], "rna": cells.rna[:, genes]}
    return from_arrays(values, present=present, meta={"modalities": kinds}, name="cite_seq")


def train(data: MultimodalDataset, epochs: int) -> MultimodalVAE:
    """Train ``mwb`` on all cells; those without proteins contribute their transcripts."""
    modalities = []
    for number, (name, values) in enumerate(data.tensors.items()):
        total = float(values[data.present[:, number]].sum(-1).median())
        modalities.append(
            Modality(name, tuple(values.shape[1:]), likelihood="negative_binomial", reference_total=total)
        )
    vae = MultimodalVAE(modalities, LATENT, "mwb", network=NetworkOptions(hidden=64))
    optimiser = pyro.optim.ClippedAdam({"lr": 3e-3, "lrd": 0.1 ** (1 / (epochs * (len(data) // 100)))})
    svi = SVI(vae.model, vae.guide, optimiser, Trace_ELBO())
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(100):
            svi.step(make_batch(data, index))
    return vae.eval()


def impute(vae: MultimodalVAE, data: MultimodalDataset, draws: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the posterior mean of the latent, and the mean of the proteins over its draws, of all cells."""
    with torch.no_grad():
        posterior = vae.posterior(make_batch(data, slice(None)), "mixture")
        return posterior.mean, vae.decode(posterior.sample((draws,)), ["protein"])["protein"].mean(0)


def score(cells: Cells, imputed: NDArray[np.float32]) -> dict[str, Any]:
    """Compare the imputed proteins of the cells without measured ones with their true counts, as log(1 + count).

    The baseline is the mean of each protein over the cells in which it was measured.
    """
    truth, guess = np.log1p(cells.protein[~cells.measured]), np.log1p(imputed[~cells.measured])
    average = np.log1p(cells.protein[cells.measured]).mean(0)
    return {
        "correlation": np.array([np.corrcoef(t, g)[0, 1] for t, g in zip(truth.T, guess.T, strict=True)]),
        "rmse": float(np.sqrt(((truth - guess) ** 2).mean())),
        "baseline": float(np.sqrt(((truth - average) ** 2).mean())),
    }


def write(out: Path, cells: Cells, genes: NDArray[np.bool_], latent: torch.Tensor, imputed: torch.Tensor) -> bool:
    """Write counts, latent and imputed proteins to an ``.h5mu`` file, and return False if the extra is missing."""
    try:
        anndata, mudata = importlib.import_module("anndata"), importlib.import_module("mudata")
    except ImportError as error:
        print(f"{out} is not written: {error}; pip install 'pyro-mmvae[omics]'")
        return False
    if hasattr(anndata.settings, "allow_write_nullable_strings"):  # the strings of pandas 3
        anndata.settings.allow_write_nullable_strings = True
    names = np.array([f"cell{i}" for i in range(len(cells.types))])
    proteins = [f"P{i}" for i in range(PROTEINS)]
    rna = anndata.AnnData(cells.rna, obs=pd.DataFrame(index=names))
    rna.var_names, rna.var["highly_variable"] = [f"G{i}" for i in range(GENES)], genes
    measured = anndata.AnnData(cells.protein[cells.measured], obs=pd.DataFrame(index=names[cells.measured]))
    completed = anndata.AnnData(
        np.where(cells.measured[:, None], cells.protein, imputed.numpy()), obs=pd.DataFrame(index=names)
    )
    measured.var_names = completed.var_names = proteins
    completed.layers["imputed"], completed.obs["is_imputed"] = imputed.numpy(), ~cells.measured
    tables = mudata.MuData({"rna": rna, "protein": measured, "protein_completed": completed})
    tables.obsm["X_mwb"] = latent.numpy()
    tables.obs["cell_type"] = pd.Categorical.from_codes(cells.types, [f"T{i}" for i in range(len(SHARES))])
    tables.write(out)
    return True


def main(epochs: int = 30, out: str | None = None) -> dict[str, Any]:
    """Train on cells of which some lack proteins, impute these, and print how well it was done."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    cells = simulate()
    genes = highly_variable(cells.rna)
    data = to_data(cells, genes)
    latent, imputed = impute(train(data, epochs), data)
    results = score(cells, imputed.numpy())
    print("protein  correlation of log(1 + count) in cells without measured proteins")
    for number, value in enumerate(results["correlation"]):
        print(f"P{number:<7} {value:.2f}")
    print(f"root mean square error {results['rmse']:.3f}; of the mean of measured cells {results['baseline']:.3f}")
    if out is not None:
        results["written"] = write(Path(out), cells, genes, latent, imputed)
    return results


if __name__ == "__main__":
    main()
