"""Two tables of patients, one of which lacks some, in a pipeline of scikit-learn.

The data are those of ``sklearn.datasets.load_breast_cancer``: ten properties of cell nuclei of 569 patients, once as
means and once as the worst values. Some patients are removed from the second table. A search chooses the aggregation
and the latent size by the accuracy of a classifier of the latents, and absent values are imputed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_mmvae import MultimodalVAETransformer

SETTINGS = {
    "model.network.hidden": 32, "model.network.depth": 1, "train.batch_size": 32, "train.lr": 0.01, "train.threads": 1,
}  # fmt: skip


def make_tables(lacking: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """Return the table of means, that of worst values, the part of it that is kept, and the diagnoses."""
    data = load_breast_cancer(as_frame=True)
    means, worst = data.data.filter(like="mean "), data.data.filter(like="worst ")
    kept = worst.sample(frac=1 - lacking, random_state=0).sort_index()
    return means, worst, kept, data.target


def make_pipeline_of(means: pd.DataFrame, worst: pd.DataFrame, epochs: int) -> Pipeline:
    """Return the steps from both tables, side by side, to diagnoses."""
    vae = MultimodalVAETransformer(
        {"means": list(means), "worst": list(worst)},
        aggregation="mwb",
        latent_size=4,
        epochs=epochs,
        settings=SETTINGS,
        random_state=0,
    )
    scale = StandardScaler().set_output(transform="pandas")  # the names of columns pass on to the next step
    return Pipeline([("scale", scale), ("vae", vae), ("classify", LogisticRegression(max_iter=1000))])


def rms(error: pd.DataFrame) -> float:
    """Return the root mean square of a table."""
    return float(np.sqrt(np.square(error.to_numpy()).mean()))


def main(epochs: int = 20, folds: int = 3, lacking: float = 0.3) -> dict[str, float]:
    """Print the accuracy of the pipeline and the error of imputed values, next to those of mean imputation."""
    means, worst, kept, diagnosis = make_tables(lacking)
    patients = pd.concat([means, kept], axis=1)  # rows of NaN where the second table lacks a patient
    pipeline = make_pipeline_of(means, worst, epochs)
    grid = [{"vae__aggregation": ["poe", "mwb"]}, {"vae__latent_size": [8]}]
    search = GridSearchCV(pipeline, grid, cv=folds).fit(patients, diagnosis)
    baseline = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))
    plain = cross_val_score(baseline, patients, diagnosis, cv=folds).mean()
    print(f"accuracy of {folds} folds with 4 or 8 latents {search.best_score_:.3f} ({search.best_params_})")
    print(f"accuracy of {folds} folds with 20 columns after mean imputation {plain:.3f}")

    scale, vae = search.best_estimator_["scale"], search.best_estimator_["vae"]
    spread = kept.std(ddof=0)
    imputed = scale.inverse_transform(vae.impute(scale.transform(patients)))
    filled = pd.DataFrame(imputed, index=patients.index, columns=patients.columns)[list(worst)]
    absent = patients.index.difference(kept.index)
    errors = {"vae": filled, "mean": patients[list(worst)].fillna(kept.mean())}
    result = {f"rmse_{name}": rms((table - worst).loc[absent] / spread) for name, table in errors.items()}
    print("error of the absent values in standard deviations:", end=" ")
    print(f"{result['rmse_vae']:.2f}, and {result['rmse_mean']:.2f} for means of the columns")
    return {"accuracy": float(search.best_score_), "accuracy_mean": float(plain), **result}


if __name__ == "__main__":
    main()
