"""Lightning integration shared by both stages: command line, run folder, optimizers, curves, tracking."""
