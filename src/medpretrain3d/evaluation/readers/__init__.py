"""Predictions of other programs, one file per program."""

from medpretrain3d.evaluation.readers.formats import READERS, format_of, read_any_predictions
from medpretrain3d.evaluation.readers.options import ReadOptions

__all__ = ["READERS", "ReadOptions", "format_of", "read_any_predictions"]
