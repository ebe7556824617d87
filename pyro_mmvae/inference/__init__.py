"""Answers of a trained model about the items of a data set: latents, imputations, predictions and scores."""

from pyro_mmvae.inference.encoding import encode as encode
from pyro_mmvae.inference.fitted_prior import FittedPrior as FittedPrior
from pyro_mmvae.inference.fitted_prior import load_fitted_prior as load_fitted_prior
from pyro_mmvae.inference.imputation import impute as impute
from pyro_mmvae.inference.imputed import Imputation as Imputation
from pyro_mmvae.inference.imputed import read_imputation as read_imputation
from pyro_mmvae.inference.items import Items as Items
from pyro_mmvae.inference.items import select_items as select_items
from pyro_mmvae.inference.prediction import Predictor as Predictor
from pyro_mmvae.inference.prediction import fit_predictor as fit_predictor
from pyro_mmvae.inference.prediction import load_predictor as load_predictor
from pyro_mmvae.inference.prior_fitting import fit_prior as fit_prior
from pyro_mmvae.inference.scoring import score as score
from pyro_mmvae.inference.tables import ItemTable as ItemTable
