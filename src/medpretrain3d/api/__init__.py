"""What `import medpretrain3d as mp` offers: an encoder, a detector, a prediction and its scores in a line each."""

from medpretrain3d.api.detector import Detector, predict
from medpretrain3d.api.encoder import Encoder, load_encoder
from medpretrain3d.api.scans import as_volume
from medpretrain3d.api.scores import evaluate

__all__ = ["Detector", "Encoder", "as_volume", "evaluate", "load_encoder", "predict"]
