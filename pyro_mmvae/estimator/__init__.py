"""The estimator of scikit-learn: a multimodal variational autoencoder as a transformer."""

from pyro_mmvae.estimator.transformer import EXPECTED_FAILED_CHECKS as EXPECTED_FAILED_CHECKS
from pyro_mmvae.estimator.transformer import MultimodalVAETransformer as MultimodalVAETransformer
