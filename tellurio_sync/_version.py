"""The version, for code that must not import the whole package: ``setup.cfg``, and the REST API's user agent."""

__version__ = "0.2.0"
