"""The mathematics of aggregation on plain tensors, without Pyro."""

from pyro_mmvae.barycenters.bures import barycenter as barycenter
from pyro_mmvae.barycenters.charts import moment as moment
from pyro_mmvae.barycenters.charts import natural as natural
from pyro_mmvae.barycenters.charts import wasserstein as wasserstein
