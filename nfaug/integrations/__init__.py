"""Adapters of NFA to the pipelines of other libraries."""
