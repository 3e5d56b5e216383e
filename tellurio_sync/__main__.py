"""``python -m tellurio_sync``: the same as the command ``tellurio-sync``."""

import sys

from .cli import main

sys.exit(main())
