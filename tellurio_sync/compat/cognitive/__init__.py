"""``afnio.cognitive``."""

from __future__ import annotations

from ...model.variable import Parameter
from . import functional, modules
from .functional import *
from .modules import *

__all__ = ["Parameter", "functional", "modules", *functional.__all__, *modules.__all__]
