"""Run directories on the Hugging Face Hub: pushed with a model card, and pulled without trusting their author."""

from pyro_mmvae.hub.transfer import HubError as HubError
from pyro_mmvae.hub.transfer import pull as pull
from pyro_mmvae.hub.transfer import push as push
