"""The version of synthmed, which stands in all that it writes."""

__version__ = "0.1.0"
