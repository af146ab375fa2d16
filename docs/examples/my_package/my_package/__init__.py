"""What `--plugins my_package` imports: every module that defines or registers something is imported here."""

from my_package import checkpoint, data_set, writer
from my_package.detector import CenterNet
from my_package.network import PlainNet
from my_package.objective import Denoising

__version__ = "0.1.0"
__all__ = ["CenterNet", "Denoising", "PlainNet", "checkpoint", "data_set", "writer"]
