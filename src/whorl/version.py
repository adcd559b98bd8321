"""Version of whorl."""

__version__ = "0.1.0"
