"""medpretrain3d: pretrain 3D backbones on CT corpora, fine-tune detectors on them, measure the difference."""

__version__ = "0.1.0"
