"""Metrics of a trained flow: likelihood, accuracy and cost."""
