"""``afnio.cognitive.functional``."""

from __future__ import annotations

from ...autodiff.functional import *
from ...autodiff.functional import __all__ as __all__
