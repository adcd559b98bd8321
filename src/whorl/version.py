"""The one place that says which whorl this is."""

__version__ = "0.1.0"
