from __future__ import annotations

from tests.model.fake_link import link

__all__ = ["link"]
