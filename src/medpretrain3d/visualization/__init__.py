"""Every plot and every picture of a volume: used by both stages, by evaluation and by reports."""
