"""Why a case cannot be used: a kind that a program can count, and a sentence that says what to do."""

from __future__ import annotations

from typing import Literal, get_args

from medpretrain3d.errors import UserError

Kind = Literal[
    "unreadable",  # missing, empty, truncated, damaged, of no known format
    "claim",  # the header claims more than the file holds, or than is ever read
    "not finite",  # NaN or infinite voxels
    "geometry",  # impossible or implausible spacing, orientation or affine
    "size",  # too few or too many voxels for a scan
    "slices",  # missing, doubled or unevenly spaced slices
    "gantry tilt",  # slices shifted against each other
    "values",  # intensities or labels of the wrong kind
    "no tissue",  # nothing but air or one value
    "channels",  # other channels than the data set says
    "mask",  # the mask lies elsewhere than the image
    "annotation",  # objects, classes or boxes that contradict image or table
    "layout",  # a file that the data set names or needs is not there
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Unusable(UserError):
    """A case that is left out while the others go on.

    Args:
        text: what it got, what was wanted, what to do; never free text from a header, which may name a patient.
        kind: by which the summary counts.
    """

    def __init__(self, text: str, kind: Kind = "unreadable") -> None:
        super().__init__(text)
        self.kind = kind
