"""Joint coverage with random points."""

from __future__ import annotations

import numpy as np
import torch

from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.tarp import reference_points, tarp_ranks
from pyro_mmvae.uniformity import rank_p_value


def test_tarp_ranks_match_hand_values() -> None:
    truth = np.array([[0.0, 0.0], [2.0, 4.0]])  # standard deviations 1 and 2
    drawn = np.array([[[0.5, 0.0], [2.0, 4.0]], [[3.0, 0.0], [9.0, 9.0]], [[1.0, 1.9], [2.0, 8.0]]])
    references = np.array([[1.0, 0.0], [2.0, 5.0]])
    # Distances from the references: truth 1 and 1/2; draws 1/2, 2, 0.95 and 1/2, more, 3/2.
    assert tarp_ranks(truth, drawn, references).tolist() == [2, 0]


def test_tarp_ranks_add_up_what_single_dimensions_hardly_show() -> None:
    rng = np.random.default_rng(0)
    truth, drawn = rng.normal(size=(300, 10)), rng.normal(size=(99, 300, 10))
    references = reference_points(truth, (), seed=1)
    assert rank_p_value(tarp_ranks(truth, drawn, references), 99) > 0.01
    narrow = 0.85 * drawn
    assert rank_p_value(tarp_ranks(truth, narrow, references), 99) < 1e-6
    single = [rank_p_value((narrow[..., d] < truth[:, d]).sum(0), 99) for d in range(10)]
    assert np.median(single) > 1e-3


def test_reference_points_depend_on_the_data_that_the_guide_sees() -> None:
    rng = np.random.default_rng(0)
    truth, x = rng.normal(3.0, 2.0, size=(400, 2)), torch.as_tensor(rng.normal(size=(400, 1)))
    plain = reference_points(truth, ())
    seen = reference_points(truth, ((Batch({"a": x}),), {"mask": torch.ones(400, dtype=torch.bool)}))
    assert abs(np.corrcoef(plain[:, 0], x[:, 0])[0, 1]) < 0.2
    assert np.abs([np.corrcoef(seen[:, d], x[:, 0])[0, 1] for d in range(2)]).max() > 0.3
    np.testing.assert_array_equal(seen, reference_points(truth, [{"a": x}]))
    np.testing.assert_allclose(seen.mean(0), 3.0, atol=0.6)
    assert not np.array_equal(plain, reference_points(truth, (), seed=1))
