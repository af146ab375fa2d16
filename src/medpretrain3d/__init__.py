"""medpretrain3d: pretrain 3D backbones on CT corpora, fine-tune detectors on them, measure the difference.

    import medpretrain3d as mp

    prediction = mp.predict("runs/mine/bundle", "scan.nii.gz")

What is offered here is `medpretrain3d.api`, loaded when it is asked for: `import medpretrain3d` alone imports nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Detector", "Encoder", "__version__", "as_volume", "evaluate", "load_encoder", "predict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("medpretrain3d.api"), name)
    raise AttributeError(f"module 'medpretrain3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
