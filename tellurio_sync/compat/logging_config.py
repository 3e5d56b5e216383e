"""``afnio.logging_config``: what this package logs, on the standard error."""

from __future__ import annotations

import logging

__all__ = ["configure_logging", "set_logger_level"]

_LEVELS = ("debug", "info", "warning", "error", "critical")


def configure_logging(verbosity: str = "info") -> None:
    """Show what this package logs, from this level on. Repeating it changes the level.

    Args:
        verbosity: ``"debug"``, ``"info"``, ``"warning"``, ``"error"`` or ``"critical"``.

    Raises:
        ValueError: another level.
    """
    if verbosity.lower() not in _LEVELS:
        raise ValueError(f"verbosity must be one of {', '.join(_LEVELS)}, not {verbosity!r}.")
    logger = logging.getLogger("tellurio_sync")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)-9s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(verbosity.upper())


def set_logger_level(logger_name: str, level: int) -> None:
    """Set the level of one logger."""
    logging.getLogger(logger_name).setLevel(level)
