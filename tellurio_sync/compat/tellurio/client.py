"""``afnio.tellurio.client``: what the login raises. The REST client itself is ``studio.StudioRest``."""

from __future__ import annotations

from ...errors import InvalidAPIKeyError

__all__ = ["InvalidAPIKeyError"]
