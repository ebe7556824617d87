"""Training by stochastic variational inference."""

from pyro_mmvae.training.elbo import RecordingELBO as RecordingELBO
from pyro_mmvae.training.session import Interrupted as Interrupted
from pyro_mmvae.training.session import TrainingError as TrainingError
from pyro_mmvae.training.session import resume as resume
from pyro_mmvae.training.session import train as train
from pyro_mmvae.training.trainer import NonFiniteError as NonFiniteError
from pyro_mmvae.training.trainer import Trainer as Trainer
from pyro_mmvae.training.trainer import evaluate_elbo as evaluate_elbo
