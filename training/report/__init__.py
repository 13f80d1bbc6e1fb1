"""Figures and pictures of training runs."""
