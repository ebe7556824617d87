"""Pictures and tables, drawn from the files of a run directory and never from a model."""

from pyro_mmvae.reports.check_table import ppc_table as ppc_table
from pyro_mmvae.reports.comparison import draw_comparison as draw_comparison
from pyro_mmvae.reports.comparison_rows import describe_recipes as describe_recipes
from pyro_mmvae.reports.comparison_rows import find_row as find_row
from pyro_mmvae.reports.comparison_rows import has_means as has_means
from pyro_mmvae.reports.comparison_rows import is_complete as is_complete
from pyro_mmvae.reports.comparison_rows import row_name as row_name
from pyro_mmvae.reports.comparison_rows import row_settings as row_settings
from pyro_mmvae.reports.evaluation import draw_evaluation as draw_evaluation
from pyro_mmvae.reports.evaluation import table as table
from pyro_mmvae.reports.files import picture_files as picture_files
from pyro_mmvae.reports.grid import image_grid as image_grid
from pyro_mmvae.reports.imputation import imputation_report as imputation_report
from pyro_mmvae.reports.imputation import write_imputation as write_imputation
from pyro_mmvae.reports.plots import draw_run as draw_run
from pyro_mmvae.reports.ppc import draw_ppc as draw_ppc
from pyro_mmvae.reports.readings import draw_matrix as draw_matrix
from pyro_mmvae.reports.readings import readings_report as readings_report
from pyro_mmvae.reports.readings import write_readings_report as write_readings_report
from pyro_mmvae.reports.sweep import draw_sweep as draw_sweep
