"""Lightning integration shared by both stages: command line, run folder, optimizers, curves, tracking."""

from medpretrain3d.engine.torchmetrics_on_demand import take_torchmetrics_on_demand

take_torchmetrics_on_demand()  # before anything imports Lightning
