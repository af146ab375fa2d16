"""A linear probe: how well frozen features of an encoder tell objects from background in a store of one's own."""

from medpretrain3d.probing.effective_rank import effective_rank
from medpretrain3d.probing.features import frozen_features, intensity_features
from medpretrain3d.probing.linear import LinearClassifier
from medpretrain3d.probing.points import ProbePoints, sample_points
from medpretrain3d.probing.probe import LinearProbe, ProbedFeatures
from medpretrain3d.probing.scores import Auc, auc_of, difference_of, rank_auc

__all__ = [
    "Auc",
    "LinearClassifier",
    "LinearProbe",
    "ProbePoints",
    "ProbedFeatures",
    "auc_of",
    "difference_of",
    "effective_rank",
    "frozen_features",
    "intensity_features",
    "rank_auc",
    "sample_points",
]
