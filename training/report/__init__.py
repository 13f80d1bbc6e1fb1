"""The report of a training run: figures, plots and an HTML page."""
