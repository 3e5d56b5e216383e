import os
import platform

from setuptools import Extension, setup

# Only where it can be of use: the C code needs poll(), and other interpreters run Python faster than they call C.
is_wanted = os.name == "posix" and platform.python_implementation() == "CPython"
# Where it cannot be built, the package works without it; but who tests it wants to see why.
is_optional = not os.environ.get("TELLURIO_SYNC_MUST_BE_COMPILED")

setup(
    ext_modules=[
        Extension("tellurio_sync._speedups", ["tellurio_sync/_speedups.c"], optional=is_optional),
    ]
    if is_wanted
    else [],
)
