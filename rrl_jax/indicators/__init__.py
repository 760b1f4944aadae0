"""How robust a representation is, told from its features.

Clusterings of clean features (k-means, minimum cost multicut), how well they
agree with labels or with the model's own predictions, and rivals that need as
much or that need shifted data without labels. Arrays in, numbers out; the host
does the work and ties go to the lower index, so that the same input gives the
same output.
"""

from rrl_jax.indicators._agreement import (
  adjusted_rand_index,
  clustering_accuracy,
  contingency,
  normalized_mutual_information,
  purity,
)
from rrl_jax.indicators._agreement_on_the_line import (
  AgreementOnTheLine,
  agreement_on_the_line,
)
from rrl_jax.indicators._alpha_req import alpha_req
from rrl_jax.indicators._calinski_harabasz import calinski_harabasz
from rrl_jax.indicators._class_distances import ClassDistances, class_distances
from rrl_jax.indicators._confidence import (
  expected_calibration_error,
  mean_confidence,
)
from rrl_jax.indicators._difference_of_confidences import (
  difference_of_confidences,
)
from rrl_jax.indicators._dispersion import dispersion
from rrl_jax.indicators._energy import graph_energy, multicut_energy
from rrl_jax.indicators._frechet_distance import frechet_distance
from rrl_jax.indicators._gaec import gaec
from rrl_jax.indicators._gaec_features import gaec_features
from rrl_jax.indicators._graph_multicut import (
  gaec_graph,
  klj_graph,
  nearest_neighbor_graph,
)
from rrl_jax.indicators._h_score import h_score
from rrl_jax.indicators._klj import klj
from rrl_jax.indicators._kmeans import kmeans
from rrl_jax.indicators._leep import leep
from rrl_jax.indicators._log_me import log_me
from rrl_jax.indicators._mano import mano
from rrl_jax.indicators._multicut import cosine_costs, multicut
from rrl_jax.indicators._nearest_neighbor_accuracy import (
  nearest_neighbor_accuracy,
)
from rrl_jax.indicators._neural_collapse import NeuralCollapse, neural_collapse
from rrl_jax.indicators._nuclear_norm import nuclear_norm
from rrl_jax.indicators._rank_me import rank_me
from rrl_jax.indicators._robustness import robustness_indicators
from rrl_jax.indicators._silhouette import silhouette
from rrl_jax.indicators._threshold import (
  Threshold,
  calibrate_threshold,
  threshold_sweep,
)
from rrl_jax.indicators._thresholded_confidence import (
  average_thresholded_confidence,
)

__all__ = [
  'AgreementOnTheLine',
  'ClassDistances',
  'NeuralCollapse',
  'Threshold',
  'adjusted_rand_index',
  'agreement_on_the_line',
  'alpha_req',
  'average_thresholded_confidence',
  'calibrate_threshold',
  'calinski_harabasz',
  'class_distances',
  'clustering_accuracy',
  'contingency',
  'cosine_costs',
  'difference_of_confidences',
  'dispersion',
  'expected_calibration_error',
  'frechet_distance',
  'gaec',
  'gaec_features',
  'gaec_graph',
  'graph_energy',
  'h_score',
  'klj',
  'klj_graph',
  'kmeans',
  'leep',
  'log_me',
  'mano',
  'mean_confidence',
  'multicut',
  'multicut_energy',
  'nearest_neighbor_accuracy',
  'nearest_neighbor_graph',
  'neural_collapse',
  'normalized_mutual_information',
  'nuclear_norm',
  'purity',
  'rank_me',
  'robustness_indicators',
  'silhouette',
  'threshold_sweep',
]
