"""The command line of everything: options, recipes and their names, what is said of a wrong word. Imports no torch."""

from __future__ import annotations

import os

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # read when jsonargparse is imported
