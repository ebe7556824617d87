"""The benchmarks of evaluation against MultiVae: inputs of linear probes and conditional coherence for all subsets.

Both evaluators judge one set of items by one set of classifiers: each subset on every modality that it lacks, with one
draw per item from the product of experts of the subset. Both return the means that a linear probe is fitted on, one
matrix per subset. MultiVae encodes every modality and fuses every subset again for each subset that is requested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.peers import MISSING, check_reconstruction, dataset, installed, mopoe, quiet, title
from benchmarks.settings import NAMES, SHAPE, describe, new_vae, random_data, setting
from benchmarks.timing import Row, at_least, compare, in_turn
from pyro_mmvae import MultimodalVAE
from pyro_mmvae.aggregation import MixtureOfProducts
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifier_networks import image_classifier
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence
from pyro_mmvae.evaluation.metrics import choose_subsets
from pyro_mmvae.inference.posteriors import encode_dataset, posterior_means
from pyro_mmvae.training.elbo import local_pyro

CLASSES = 10
SUBSETS = choose_subsets(len(NAMES))
PARTIAL = [subset for subset in SUBSETS if len(subset) < len(NAMES)]


def judges() -> Classifiers:
    """Return untrained classifiers, which take as long as trained ones."""
    networks = {name: image_classifier(SHAPE, CLASSES).eval() for name in NAMES}
    return Classifiers(networks, dict.fromkeys(NAMES, 1.0), 0)


def ours(vae: MultimodalVAE, data: MultimodalDataset, classifiers: Classifiers) -> int:
    """Evaluate all subsets by this package, from one encoding, and return the number of results."""
    experts = encode_dataset(vae, data)
    means = [posterior_means(vae, experts, subset) for subset in SUBSETS]
    assert data.labels is not None
    return len(means) + len(
        conditional_coherence(vae, experts, data.labels, classifiers, subsets=PARTIAL, bound="joint")
    )


def theirs(model: Any, items: Any, classifiers: Classifiers) -> int:
    """Evaluate all subsets by the model and the evaluator of MultiVae, and return the number of results."""
    from multivae.metrics import CoherenceEvaluator, CoherenceEvaluatorConfig  # noqa: PLC0415

    with quiet():
        evaluator = CoherenceEvaluator(
            model, dict(classifiers.networks), items, eval_config=CoherenceEvaluatorConfig(num_classes=CLASSES)
        )
        with torch.no_grad():
            for batch in DataLoader(items, batch_size=512):
                means = [model.encode(batch, named(subset), return_mean=True).z for subset in SUBSETS]
        evaluator.cross_coherences()
        evaluator.finish()
    return len(means) + sum("_to_" in name for name in evaluator.metrics)


def named(subset: tuple[int, ...]) -> list[str]:
    """Return the names of the modalities of a subset."""
    return [NAMES[m] for m in subset]


def rows(rounds: int) -> Iterator[Row]:
    """Yield one row per setting."""
    if not installed():
        print(f"          {MISSING}: its evaluator")
        return
    for name, items, bar in (("recipe", 40 * rounds, at_least(3)), ("mini", 40 * rounds, None)):
        data, config = random_data(items), setting(name, "mopoe", "component")
        check_reconstruction(config)
        vae, classifiers, their_items = new_vae(config).eval(), judges(), dataset(data)
        model = mopoe(vae, config).eval()
        check_subsets(vae, model, data)
        counts: set[int] = set()
        contestants = {
            "MultiVae": lambda m=model, i=their_items, c=classifiers, n=counts: n.add(theirs(m, i, c)),
            "ours": lambda v=vae, d=data, c=classifiers, n=counts: n.add(ours(v, d, c)),
        }
        with local_pyro():
            seconds = in_turn(contestants, rounds=2)
        assert len(counts) == 1, f"both evaluators must return one number of results, got {counts}"
        note = f"{items} items, {len(SUBSETS)} subsets, {describe(config)}"
        row = f"probe inputs and coherence, {name}, mopoe: {title()} / ours"
        yield compare(row, seconds, "MultiVae", "ours", note, bar)


def check_subsets(vae: MultimodalVAE, model: Any, data: MultimodalDataset) -> None:
    """Check that the products of experts of all subsets have equal means in both packages.

    The prior expert belongs to the product of all modalities only.

    Args:
        vae: The model of this package.
        model: The model of MultiVae with its weights.
        data: The data set from which eight items are encoded.

    Raises:
        AssertionError: If means differ.
    """
    subset_data = data.subset(range(8))
    batch, experts = next(iter(DataLoader(dataset(subset_data), batch_size=8))), encode_dataset(vae, subset_data)
    with torch.no_grad():
        for subset in PARTIAL:
            mean = model.encode(batch, named(subset), return_mean=True).z
            expected = MixtureOfProducts(prior_expert="none").joint(experts.condition_on(subset)).mean
            torch.testing.assert_close(mean, expected, rtol=1e-2, atol=1e-3)
