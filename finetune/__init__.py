"""Stage 2: train a detector on labelled volumes, from an encoder file or from scratch; see README.md beside this."""
