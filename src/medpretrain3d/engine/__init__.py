"""What both stages share with Lightning: command line, run folder, optimisers, curves, tracking."""
