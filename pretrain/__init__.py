"""Stage 1: train a backbone on a corpus of volumes without labels; see README.md beside this file."""
