"""Stage 1: train a backbone on a corpus of volumes without labels; see README.md beside this file."""

import medpretrain3d.engine  # noqa: F401  before Lightning, whose start it shortens
