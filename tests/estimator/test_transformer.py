"""Tests of the transformer: its forms of input, its place among scikit-learn's tools, and its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import pyro_mmvae
from pyro_mmvae import MultimodalVAETransformer
from pyro_mmvae.runs import make_config

N = 60
SETTINGS = {
    "train.threads": 1, "train.device": "cpu", "train.batch_size": 20, "model.network.name": "mlp",
    "model.network.hidden": 8, "model.network.depth": 1,
}  # fmt: skip
SPLIT = {"left": [0, 1], "right": slice(2, 5)}
NAMES = ["l0", "l1", "r0", "r1", "r2"]


def make_vae(columns: Any = SPLIT, **options: Any) -> MultimodalVAETransformer:
    options = {"latent_size": 2, "epochs": 1, "random_state": 0, "settings": SETTINGS, **options}
    return MultimodalVAETransformer(columns, **options)


def make_array() -> NDArray[np.float64]:
    generator = np.random.default_rng(0)
    kind = np.arange(N)[:, None] % 2
    return 100 + 20 * kind * np.array([1, -1, 1, 1, -1]) + generator.normal(size=(N, 5))


def make_table() -> pd.DataFrame:
    return pd.DataFrame(make_array(), columns=NAMES, index=[f"p{row}" for row in range(N)])


LABELS = np.arange(N) % 2


@pytest.fixture(scope="module")
def fitted() -> MultimodalVAETransformer:
    x = make_array()
    x[3, :2] = np.nan
    return make_vae(epochs=12, settings={**SETTINGS, "train.lr": 0.03}).fit(x)


def test_defaults_are_those_of_the_configuration() -> None:
    config, vae = make_config(), MultimodalVAETransformer()
    assert (vae.latent_size, vae.epochs) == (config.model.latent_size, config.train.epochs)


def test_fit_given_an_array_trains_what_fit_of_the_package_trains(tmp_path: Path) -> None:
    x = make_array()
    values = {"left": x[:, :2], "right": x[:, 2:]}
    options: dict[str, Any] = {"epochs": 1, "latent_size": 2, "settings": SETTINGS}
    run = pyro_mmvae.fit(values, **options, seed=7, test=0, keep_data=False, progress=False, out=tmp_path / "run")
    vae = make_vae(random_state=7)
    assert np.array_equal(vae.fit_transform(x), run.encode(values)["z"])
    assert vae.run_.description == run.description


def test_fit_shows_nothing_unless_verbose(capfd: pytest.CaptureFixture[str]) -> None:
    make_vae().fit(make_array())
    assert capfd.readouterr() == ("", "")
    make_vae(verbose=1).fit(make_array())
    assert capfd.readouterr().err


def test_fit_with_a_generator_draws_a_new_seed() -> None:
    generator = np.random.RandomState(0)
    vae = make_vae(random_state=generator)
    seeds = [vae.fit(make_array()).seed_ for _ in range(2)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("columns", [{"left": ["l0", "l1"], "right": slice("r0", "r2")}, SPLIT])
def test_fit_given_a_table_equals_fit_given_its_array(columns: Any) -> None:
    table = make_table()
    vae = make_vae(columns).set_output(transform="pandas")
    z = vae.fit_transform(table)
    assert z.index.equals(table.index)
    assert list(z) == list(vae.get_feature_names_out()) == ["multimodalvaetransformer0", "multimodalvaetransformer1"]
    assert vae.feature_names_in_.tolist() == NAMES
    assert vae.run_.description.feature_names == {"left": ("l0", "l1"), "right": ("r0", "r1", "r2")}
    assert np.allclose(z, make_vae().fit_transform(table.to_numpy()), atol=1e-6)
    decoded = vae.inverse_transform(z)
    assert list(decoded) == NAMES
    assert decoded.index.equals(table.index)


def test_fit_given_a_pair_of_tables_returns_tables() -> None:
    table = make_table().set_axis(range(10, 10 + N))
    pair = {"left": table[["l0", "l1"]], "right": table[["r0", "r1", "r2"]].iloc[2:]}
    vae = make_vae(None).fit(pair)
    assert vae.transform(pair).shape == (N, 2)
    assert not hasattr(vae, "n_features_in_")
    decoded = vae.inverse_transform(vae.transform(pair))
    assert {name: list(part) for name, part in decoded.items()} == {"left": ["l0", "l1"], "right": ["r0", "r1", "r2"]}
    filled = vae.impute(pair)
    assert filled["left"] is pair["left"]
    assert filled["right"].index.tolist() == table.index.tolist()
    assert np.allclose(filled["right"].iloc[2:], pair["right"])
    assert filled["right"].notna().all(axis=None)


def test_fit_given_text_and_images_fills_in_both() -> None:
    generator = np.random.default_rng(0)
    photos: list[Any] = list(generator.integers(0, 255, (N, 8, 8, 3), dtype=np.uint8))
    texts: list[Any] = [["cat", "dog"][row % 2] for row in range(N)]
    photos[1], texts[2] = None, None
    x = {"photo": photos, "text": texts}
    vae = make_vae(None).fit(x)
    filled = vae.impute(x)
    assert filled["photo"][1].shape == (8, 8, 3)
    assert filled["photo"][1].dtype == np.uint8
    assert filled["photo"][0] is photos[0]
    assert isinstance(filled["text"][2], str)
    assert filled["text"][:2] == texts[:2]
    drawn = vae.sample(3)
    assert drawn["photo"].shape == (3, 3, 8, 8)
    assert drawn["text"].shape == (3,)


def test_fit_given_a_table_with_a_column_of_text_encodes_it() -> None:
    table = make_table().assign(note=np.where(LABELS, "high", "low"))
    vae = make_vae({"numbers": NAMES, "note": "note"}, epochs=18, settings={**SETTINGS, "train.lr": 0.03}).fit(table)
    decoded = vae.inverse_transform(vae.transform(table))
    assert list(decoded) == [*NAMES, "note"]
    assert (decoded["note"].to_numpy() == table["note"].to_numpy()).mean() > 0.9
    table.loc["p4", "note"] = None
    filled = vae.impute(table)
    assert filled.loc["p4", "note"] == "low"
    assert filled.drop(index="p4").equals(table.drop(index="p4"))


def test_transform_keeps_single_precision() -> None:
    x = make_array().astype(np.float32)
    vae = make_vae().fit(x)
    z = vae.transform(x)
    assert (z.dtype, vae.inverse_transform(z).dtype) == (np.float32, np.float32)
    assert vae.transform(x.astype(np.float64)).dtype == np.float64


def test_transform_given_an_item_without_any_modality_returns_the_prior(fitted: MultimodalVAETransformer) -> None:
    nothing = np.full((1, 5), np.nan)
    assert np.array_equal(fitted.transform(nothing), np.zeros((1, 2)))
    assert np.isfinite(fitted.impute(nothing)).all()


def test_inverse_transform_decodes_in_the_units_of_the_data(fitted: MultimodalVAETransformer) -> None:
    x = make_array()
    decoded = fitted.inverse_transform(fitted.transform(x))
    assert np.abs(decoded - x).mean() < 0.5 * np.abs(x - x.mean(0)).mean()


def test_impute_fills_absent_modalities_and_keeps_the_rest(fitted: MultimodalVAETransformer) -> None:
    x = make_array()
    given = x.copy()
    given[:10, :2] = np.nan
    filled = fitted.impute(given)
    assert np.array_equal(filled[10:], x[10:])
    assert np.array_equal(filled[:, 2:], x[:, 2:])
    assert np.abs(filled[:10, :2] - x[:10, :2]).mean() < 0.5 * np.abs(x[:, :2] - x[:, :2].mean(0)).mean()
    assert np.array_equal(fitted.impute(x), x)
    assert np.isnan(given[:10, :2]).all()


def test_impute_given_a_table_after_training_on_an_array_returns_a_table(fitted: MultimodalVAETransformer) -> None:
    table = pd.DataFrame(make_array(), index=range(5, 5 + N))
    table.iloc[2, 2:] = np.nan
    filled = fitted.impute(table)
    assert filled.index.equals(table.index)
    assert filled.notna().all(axis=None)
    assert filled.drop(index=7).equals(table.drop(index=7))


def test_impute_given_an_array_after_training_on_a_table_returns_an_array() -> None:
    vae, x = make_vae().fit(make_table().set_axis(range(5), axis=1)), make_array()
    x[0, :2] = np.nan
    filled = vae.impute(x)
    assert isinstance(filled, np.ndarray)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[1:], x[1:])


def test_impute_given_integers_returns_floats() -> None:
    table = make_table().round().astype("Int64")
    table.iloc[3, :2] = pd.NA
    vae = make_vae().fit(table)
    filled = vae.impute(table)
    assert filled.notna().all(axis=None)
    assert filled["r0"].dtype == "Int64"
    assert filled.iloc[:3].astype(int).equals(table.iloc[:3].astype(int))


def test_fit_given_an_array_of_counts_learns_counts() -> None:
    x = np.random.default_rng(0).poisson(5, (N, 5)).astype(float)
    vae = make_vae(data_types={"left": "counts"}).fit(x)
    assert vae.run_.modality_specs["left"].data_type == "counts"
    drawn = vae.sample(20)
    assert np.array_equal(drawn[:, :2], drawn[:, :2].round())
    assert not np.array_equal(drawn[:, 2:], drawn[:, 2:].round())


def test_fit_given_tokens_as_floats_learns_tokens() -> None:
    x = make_array()
    x[:, :2] = (x[:, :2] > 100) + 1
    x[5, :2] = np.nan
    vae = make_vae(data_types={"left": "tokens"}).fit(x)
    assert vae.run_.modality_specs["left"].data_type == "tokens"
    assert set(np.unique(vae.sample(20)[:, :2])) <= {0, 1, 2}
    assert np.isfinite(vae.impute(x)).all()
    x[6, 1] = 0.5
    with pytest.raises(ValueError, match=r"modality 'left': item 6: tokens must be whole numbers, got 0\.5"):
        vae.transform(x)


def test_sample_repeats_with_its_seed(fitted: MultimodalVAETransformer) -> None:
    drawn = fitted.sample(40, random_state=1)
    assert drawn.shape == (40, 5)
    assert np.array_equal(drawn, fitted.sample(40, random_state=1))
    assert not np.array_equal(drawn, fitted.sample(40, random_state=2))
    assert np.abs(drawn.mean(0) - make_array().mean(0)).max() < 20
    with pytest.raises(ValueError, match="n_samples must be positive, got 0"):
        fitted.sample(0)


def test_score_is_higher_for_items_like_those_of_the_training(fitted: MultimodalVAETransformer) -> None:
    x = make_array()
    assert fitted.score(x) > fitted.score(x + 50) + 10


def test_pipeline_of_tables_classifies_items_with_absent_modalities() -> None:
    table = make_table()
    table.iloc[:6, :2] = np.nan
    scaler = StandardScaler().set_output(transform="pandas")
    vae = make_vae({"left": ["l0", "l1"], "right": ["r0", "r1", "r2"]}, epochs=10)
    pipeline = make_pipeline(scaler, vae.set_params(settings={**SETTINGS, "train.lr": 0.03}), LogisticRegression())
    assert cross_val_score(pipeline, table, LABELS, cv=2).mean() > 0.9


def test_grid_search_chooses_among_aggregations_and_sizes() -> None:
    steps = [("scale", StandardScaler()), ("vae", make_vae()), ("classify", LogisticRegression())]
    grid = [{"vae__aggregation": ["poe", {"name": "wb"}]}, {"vae__latent_size": [1, 3]}]
    search = GridSearchCV(Pipeline(steps), grid, cv=2).fit(make_array(), LABELS)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_["vae"]
    for name, value in search.best_params_.items():
        assert best.get_params()[name.removeprefix("vae__")] == value
    assert best.transform(make_array()).shape == (N, best.latent_size)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_clone_given_a_fitted_transformer_has_its_parameters_only(fitted: MultimodalVAETransformer) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(make_array())


def test_fit_again_on_a_mapping_forgets_the_columns() -> None:
    vae = make_vae(None).fit(make_table())
    assert vae.run_.names == ("x",)
    vae.fit({"left": make_array()[:, :2], "right": make_array()[:, 2:]})
    assert not hasattr(vae, "feature_names_in_")
    assert vae.run_.names == ("left", "right")


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (SPLIT, {"left": make_array()}, "X must be an array or a table, as columns is given, got dict"),
        ({"left": ["l0"], "right": ["r0"]}, make_array(), "must be positions in an array, which does not have names"),
        (SPLIT, np.where(np.eye(N, 5) > 0, np.nan, make_array()), "item 0: the value at .* must be a number, got NaN"),
        (SPLIT, np.full((N, 5), np.inf), "contains infinity"),
        (SPLIT, make_table().replace(make_table().iloc[4, 3], np.inf), "item 4: value at .* must be finite, got inf"),
        (SPLIT, make_table().iloc[:1], "must have more than 1 items"),
    ],
)
def test_fit_given_wrong_input_raises(columns: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vae(columns).fit(values)


def test_fit_given_a_sparse_array_raises() -> None:
    with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data is required"):
        make_vae().fit(csr_array(make_array()))


def test_transform_given_another_form_raises(fitted: MultimodalVAETransformer) -> None:
    with pytest.raises(ValueError, match="X must be an array or a table, as columns is given, got dict"):
        fitted.transform({"left": make_array()})
    vae = make_vae(None).fit({"left": make_array()[:, :2], "right": make_array()[:, 2:]})
    with pytest.raises(ValueError, match="X must be values by modality as in training, got ndarray"):
        vae.transform(make_array())
    with pytest.raises(ValueError, match="X must have 2 columns, one per latent, got 3"):
        vae.inverse_transform(np.zeros((1, 3)))
