"""The demo: every step of nfaug in minutes, and whether NFA helps on handwritten digits."""

from .pipeline import DemoSettings, run_demo

__all__ = ["DemoSettings", "run_demo"]
