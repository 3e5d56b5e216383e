"""The synchronous client of Tellurio Studio."""

__version__ = "0.1.0"
