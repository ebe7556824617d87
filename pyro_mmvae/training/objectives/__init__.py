"""Training objectives: their interface, the built-in ones, and the registry of names."""

from pyro_mmvae.training.objectives.base import Objective as Objective
from pyro_mmvae.training.objectives.iwae import IWAEObjective as IWAEObjective
from pyro_mmvae.training.objectives.lower_bound import ELBOObjective as ELBOObjective
from pyro_mmvae.training.objectives.masked import MaskedObjective as MaskedObjective
from pyro_mmvae.training.objectives.mmvm import MMVMObjective as MMVMObjective
from pyro_mmvae.training.objectives.mvtcae import MVTCAEObjective as MVTCAEObjective
from pyro_mmvae.training.objectives.registry import _OBJECTIVES as _OBJECTIVES
from pyro_mmvae.training.objectives.registry import ObjectiveFactory as ObjectiveFactory
from pyro_mmvae.training.objectives.registry import describe_objective as describe_objective
from pyro_mmvae.training.objectives.registry import make_objective as make_objective
from pyro_mmvae.training.objectives.registry import objective_names as objective_names
from pyro_mmvae.training.objectives.registry import objective_options as objective_options
from pyro_mmvae.training.objectives.registry import register_objective as register_objective
from pyro_mmvae.training.objectives.registry import unregister_objective as unregister_objective
from pyro_mmvae.training.objectives.sub_elbos import SubELBOsObjective as SubELBOsObjective
