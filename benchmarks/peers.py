"""Libraries that are measured against and that the project itself does not depend on.

`make bench` puts them into `.bench/`, without their dependencies: some pin versions that ours must not have.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / ".bench"


def peer(module: str) -> ModuleType:
    """Import a module of a peer.

    Raises:
        SystemExit: `.bench/` has not been filled.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # behind the environment: no peer replaces a library of ours
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"error: {module} is missing ({error}); `make bench` installs the peers") from error
