"""Adapters that put NFA into the pipelines of other libraries."""
