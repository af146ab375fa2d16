from medpretrain3d.api import Detector as Detector
from medpretrain3d.api import Encoder as Encoder
from medpretrain3d.api import as_volume as as_volume
from medpretrain3d.api import evaluate as evaluate
from medpretrain3d.api import load_encoder as load_encoder
from medpretrain3d.api import predict as predict

__version__: str
