"""Likelihoods: distributions of a modality given the output of its decoder."""

from pyro_mmvae.likelihoods.base import Likelihood as Likelihood
from pyro_mmvae.likelihoods.calibrated import SCALE_FLOOR as SCALE_FLOOR
from pyro_mmvae.likelihoods.calibrated import SCALE_NAMES as SCALE_NAMES
from pyro_mmvae.likelihoods.calibrated import CalibratedScale as CalibratedScale
from pyro_mmvae.likelihoods.calibrated import calibrated_name as calibrated_name
from pyro_mmvae.likelihoods.calibrated import parse_calibrated as parse_calibrated
from pyro_mmvae.likelihoods.counts import LogRateNegativeBinomial as LogRateNegativeBinomial
from pyro_mmvae.likelihoods.counts import LogRatePoisson as LogRatePoisson
from pyro_mmvae.likelihoods.counts import NegativeBinomialLikelihood as NegativeBinomialLikelihood
from pyro_mmvae.likelihoods.counts import PoissonLikelihood as PoissonLikelihood
from pyro_mmvae.likelihoods.generalized_normal import SharedScaleGeneralizedNormal as SharedScaleGeneralizedNormal
from pyro_mmvae.likelihoods.generalized_normal import generalized_normal_cdf as generalized_normal_cdf
from pyro_mmvae.likelihoods.heads import OUTPUTS as OUTPUTS
from pyro_mmvae.likelihoods.heads import BernoulliLikelihood as BernoulliLikelihood
from pyro_mmvae.likelihoods.heads import CategoricalLikelihood as CategoricalLikelihood
from pyro_mmvae.likelihoods.heads import LaplaceLikelihood as LaplaceLikelihood
from pyro_mmvae.likelihoods.heads import NormalLikelihood as NormalLikelihood
from pyro_mmvae.likelihoods.registry import LIKELIHOODS as LIKELIHOODS
from pyro_mmvae.likelihoods.registry import LikelihoodEntry as LikelihoodEntry
from pyro_mmvae.likelihoods.registry import check_option as check_option
from pyro_mmvae.likelihoods.registry import make_likelihood as make_likelihood
from pyro_mmvae.likelihoods.registry import register_likelihood as register_likelihood
from pyro_mmvae.likelihoods.shared_scale import SharedScaleLaplace as SharedScaleLaplace
from pyro_mmvae.likelihoods.shared_scale import SharedScaleNormal as SharedScaleNormal
from pyro_mmvae.likelihoods.standardized import StandardizedLikelihood as StandardizedLikelihood
from pyro_mmvae.likelihoods.standardized import moments as moments
from pyro_mmvae.likelihoods.zero_inflated import ZeroInflated as ZeroInflated
from pyro_mmvae.likelihoods.zero_inflated import (
    ZeroInflatedNegativeBinomialLikelihood as ZeroInflatedNegativeBinomialLikelihood,
)
from pyro_mmvae.likelihoods.zero_inflated import ZeroInflatedPoissonLikelihood as ZeroInflatedPoissonLikelihood
