import os
import platform
import sysconfig

from setuptools import Extension, setup

# Only where it can be of use: the C code needs poll(), other interpreters run Python faster than they call C, and where
# there is no GIL none has to be given up. The variable that switches it off at run time makes the wheel without it.
is_wanted = (
    os.name == "posix"
    and not os.environ.get("TELLURIO_SYNC_PURE_PYTHON")
    and platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
# Where it cannot be built, the package works without it; but who tests it wants to see why.
is_optional = not os.environ.get("TELLURIO_SYNC_MUST_BE_COMPILED")

setup(
    ext_modules=[
        Extension("tellurio_sync._speedups", ["tellurio_sync/_speedups.c"], optional=is_optional),
    ]
    if is_wanted
    else [],
)
