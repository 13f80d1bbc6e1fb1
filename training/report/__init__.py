"""Reports of training runs: figures and an HTML page."""
