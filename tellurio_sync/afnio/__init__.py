"""Run programs that are written for afnio, unchanged, over the client of this package (extra ``afnio``).

::

    import tellurio_sync.afnio

    tellurio_sync.afnio.install()  # before or after importing afnio, before or after its login

or, without touching the program, ``python -m tellurio_sync.afnio script.py [arguments]``; in a notebook
``%load_ext tellurio_sync.afnio``.

afnio's own layers (its Variables, modules, trainer, optimizers) stay as they are.  Its default connection is replaced
by the client of this package: calls run in the thread that makes them, pushes of the server are applied on the receive
thread, in order and before the reply that follows them, and functions that the server calls run on worker threads.  So
a lost connection ends waiting calls at once, and the client connects again with its key.  afnio's event loop, its
``.env`` loading and its logging stay as they are.

::

    install.py        installs and uninstalls;  patches.py: puts names in place and back
    bridge.py         the client class that afnio uses, over the client of this package
    pushes.py         waits for pushes;  suppression.py: changes that the server is not told of
    metrics.py        what runs log, without waiting (``install(metrics=True)``)
    trampoline.py     runs coroutines that never suspend
    convert.py        reads checkpoint files of afnio

This package uses the published names of afnio, and a few functions of its registries.  They are known for the versions
that ``check_version`` accepts.

Importing this package does not import afnio; ``install`` does.
"""

from __future__ import annotations

from .install import AfnioVersionError, install, is_installed, uninstall

__all__ = ["AfnioVersionError", "install", "is_installed", "uninstall"]


def load_ipython_extension(ipython: object) -> None:
    """``%load_ext tellurio_sync.afnio``: ``install``."""
    install()


def unload_ipython_extension(ipython: object) -> None:
    """``%unload_ext tellurio_sync.afnio``: ``uninstall``."""
    uninstall()
