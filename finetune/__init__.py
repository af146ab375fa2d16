"""Stage 2: train a detector on labelled volumes, from an encoder file or from scratch; see README.md beside this."""

import medpretrain3d.engine  # noqa: F401  before Lightning, whose start it shortens
