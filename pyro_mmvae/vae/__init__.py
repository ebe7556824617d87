"""The multimodal variational autoencoder: a Pyro model and guide over one latent."""

from pyro_mmvae.vae.modalities import Modality as Modality
from pyro_mmvae.vae.vae import MultimodalVAE as MultimodalVAE
