"""Evaluation: the inputs of linear probes and conditional coherence for all subsets, MultiVae's evaluator and ours.

Both judge the same items by the same classifiers, each subset on every modality that it lacks, one draw an item from
the product of experts of the subset; and both give the means that a linear probe is fitted on, one matrix a subset.
MultiVae's encodes every modality, and fuses every subset, anew for each subset that is asked for.
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
from pyro_mmvae.aggregation.functional import full_component
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifier_networks import image_classifier
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence
from pyro_mmvae.evaluation.metrics import choose_subsets
from pyro_mmvae.evaluation.posteriors import encode_dataset, posterior_means
from pyro_mmvae.training.elbo import local_pyro

CLASSES = 10
SUBSETS = choose_subsets(len(NAMES))
PARTIAL = [subset for subset in SUBSETS if len(subset) < len(NAMES)]


def judges() -> Classifiers:
    """Untrained classifiers: what they say takes as long."""
    networks = {name: image_classifier(SHAPE, CLASSES).eval() for name in NAMES}
    return Classifiers(networks, dict.fromkeys(NAMES, 1.0), 0)


def ours(vae: MultimodalVAE, data: MultimodalDataset, classifiers: Classifiers) -> int:
    """One encoding, then every subset from it."""
    experts = encode_dataset(vae, data)
    means = [posterior_means(vae, experts, subset) for subset in SUBSETS]
    assert data.labels is not None
    return len(means) + len(
        conditional_coherence(vae, experts, data.labels, classifiers, subsets=PARTIAL, bound="full")
    )


def theirs(model: Any, items: Any, classifiers: Classifiers) -> int:
    """Its model's encodings of every subset, and its evaluator."""
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
    """The names of a subset."""
    return [NAMES[m] for m in subset]


def rows(rounds: int) -> Iterator[Row]:
    """One row a setting."""
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
            found = in_turn(contestants, rounds=2)
        assert len(counts) == 1, f"another number of figures: {counts}"
        note = f"{items} items, {len(SUBSETS)} subsets, {describe(config)}"
        row = f"probe inputs and coherence, {name}, mopoe: {title()} / ours"
        yield compare(row, found, "MultiVae", "ours", note, bar)


def check_subsets(vae: MultimodalVAE, model: Any, data: MultimodalDataset) -> None:
    """Products of all subsets have the same means. Ours also take in the prior, and theirs that of everything only.

    Raises:
        AssertionError: if they have not.
    """
    some = data.subset(range(8))
    batch, experts = next(iter(DataLoader(dataset(some), batch_size=8))), encode_dataset(vae, some)
    with torch.no_grad():
        for subset in PARTIAL:
            mean = model.encode(batch, named(subset), return_mean=True).z
            expected = full_component(experts.given(subset), "mopoe", prior_expert="none").mean
            torch.testing.assert_close(mean, expected, rtol=1e-2, atol=1e-3)
