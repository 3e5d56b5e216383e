"""``afnio.cognitive.modules``."""

from __future__ import annotations

from ...cognitive import *
from ...cognitive import __all__ as __all__
