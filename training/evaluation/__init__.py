"""Figures of a trained flow: likelihood, accuracy, cost."""
