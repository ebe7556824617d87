"""Training: objectives, the trainer, and sessions that write run directories."""

from pyro_mmvae.training.elbo import ElboEstimate as ElboEstimate
from pyro_mmvae.training.elbo import RecordingELBO as RecordingELBO
from pyro_mmvae.training.elbo import Terms as Terms
from pyro_mmvae.training.elbo import evaluate_elbo as evaluate_elbo
from pyro_mmvae.training.elbo import local_pyro as local_pyro
from pyro_mmvae.training.fitting import fit as fit
from pyro_mmvae.training.objectives import ELBOObjective as ELBOObjective
from pyro_mmvae.training.objectives import Objective as Objective
from pyro_mmvae.training.objectives import make_objective as make_objective
from pyro_mmvae.training.objectives import objective_names as objective_names
from pyro_mmvae.training.objectives import register_objective as register_objective
from pyro_mmvae.training.objectives import unregister_objective as unregister_objective
from pyro_mmvae.training.session import Interrupted as Interrupted
from pyro_mmvae.training.session import TrainingError as TrainingError
from pyro_mmvae.training.session import resume as resume
from pyro_mmvae.training.session import train as train
from pyro_mmvae.training.trainer import NonFiniteError as NonFiniteError
from pyro_mmvae.training.trainer import Trainer as Trainer
