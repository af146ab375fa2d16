"""The second stage of a cross-validation: candidates out of fold, networks that learn to rescore them, their scores."""

from __future__ import annotations

from medpretrain3d.rescoring.candidates import CandidateSet, read_candidate_set
from medpretrain3d.rescoring.training import RescorerTraining, train_rescorer

__all__ = ["CandidateSet", "RescorerTraining", "read_candidate_set", "train_rescorer"]
