"""The description of the data that a model was trained on, which new data are matched to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.infer import sample_means
from pyro_mmvae.modality_spec import ModalitySpec


@dataclass(frozen=True)
class DataDescription:
    """A description of the data that a model was trained on, which new data are matched to.

    Attributes:
        shapes: Shape of one item by modality name, in the order of the model's modalities.
        modality_specs: Description of each modality by name; empty by default.
        feature_names: Names of the features by modality name; modalities without names are left out.
        feature_means: Training mean of each feature by modality name, for modalities with names of features.
        class_names: Names of the classes if labels are classes with names, and empty otherwise.
        label_names: Names of the attributes if labels are attributes, and empty otherwise.
        covariate_names: Names of the categories of each covariate by its name; empty without covariates.
    """

    shapes: Mapping[str, tuple[int, ...]]
    modality_specs: Mapping[str, ModalitySpec] = field(default_factory=dict)
    feature_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    feature_means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    covariate_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.shapes)


def describe_data(train: MultimodalDataset, specs: Mapping[str, ModalitySpec] | None = None) -> DataDescription:
    """Describe a training split, so that other data can be matched to it.

    Args:
        train: The training split. Means of features are taken over at most 10,000 evenly spaced items.
        specs: Completed description of each modality by name; by default those of the data.
    """
    specs = train.modality_specs if specs is None else specs
    means = {
        name: tuple(sample_means(train, name).tolist())
        for name in train.feature_names
        if specs.get(name, ModalitySpec()).data_type != "tokens"
    }
    shapes = {name: tuple(value.shape[1:]) for name, value in train.modalities.items()}
    return DataDescription(
        shapes, specs, train.feature_names, means, train.class_names, train.label_names, train.covariate_names
    )
