"""The multimodal variational autoencoder: a Pyro model and guide over one latent."""

from pyro_mmvae.vae.custom_networks import register_decoder as register_decoder
from pyro_mmvae.vae.custom_networks import register_encoder as register_encoder
from pyro_mmvae.vae.modalities import Modality as Modality
from pyro_mmvae.vae.priors import MixturePrior as MixturePrior
from pyro_mmvae.vae.reaggregation import with_aggregation as with_aggregation
from pyro_mmvae.vae.vae import MultimodalVAE as MultimodalVAE
