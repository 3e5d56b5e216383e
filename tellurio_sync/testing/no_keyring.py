"""Keep keys out of the user's keyring, by the means that the package ``keyring`` gives its users."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PYTHON_KEYRING_BACKEND"
_NULL = "keyring.backends.null.Keyring"


@contextmanager
def no_keyring() -> Iterator[None]:
    """Inside the block, ``keyring`` stores and finds nothing: here, and in the processes that are started.

    Not thread-safe: it changes the environment and the keyring of the whole process.
    """
    keyring = sys.modules.get("keyring")
    # It chooses when it is first asked, by the environment, and keeps to that.
    chosen = None if keyring is None else keyring.get_keyring()
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = _NULL
    try:
        if keyring is not None:
            keyring.core.init_backend()
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
        if keyring is not None:
            keyring.set_keyring(chosen)
        elif (keyring := sys.modules.get("keyring")) is not None:
            keyring.core.init_backend()  # first imported inside: let it choose again
