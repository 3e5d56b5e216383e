"""``afnio.utils.data``."""

from __future__ import annotations

from ...data import *
from ...data import __all__ as __all__
