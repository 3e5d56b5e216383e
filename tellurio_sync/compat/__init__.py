"""The public names of afnio at the places where programs look for them. A program changes only its imports.

Replace ``afnio`` by ``tellurio_sync.compat`` in the import lines of a program::

    import tellurio_sync.compat as afnio
    from tellurio_sync.compat.cognitive import Module, Parameter
    from tellurio_sync.compat.trainer import Trainer

and it runs on this package alone.  Each name is another name of something in this package, which the guide *Moving from
afnio* (``docs/moving-from-afnio.md``) lists; only ``tellurio.project`` and ``logging_config`` have functions of their
own.  Some modules have a name more than afnio's.  New programs write ``import tellurio_sync as te``.

So that a program ends as before, importing this makes ``backward()`` ask a language model about each sample, as afnio
does; ``backward(feedback="records")`` asks less.
"""

from __future__ import annotations

from .._version import __version__ as __version__
from ..autodiff import functional
from ..autodiff.backward_model import get_backward_model_client, set_backward_model_client
from ..autodiff.backward_pass import CRITIC, set_default_feedback
from ..autodiff.grad_mode import is_grad_enabled, no_grad, set_grad_enabled
from ..autodiff.messages import MultiTurnMessages
from ..model.graph import GradientEdge, Node
from ..model.serialization import load, save
from ..model.variable import Variable
from . import autodiff, cognitive, models, optim, tellurio, utils

set_default_feedback(CRITIC)

__all__ = [
    "GradientEdge",
    "MultiTurnMessages",
    "Node",
    "Variable",
    "autodiff",
    "cognitive",
    "functional",
    "get_backward_model_client",
    "is_grad_enabled",
    "load",
    "models",
    "no_grad",
    "optim",
    "save",
    "set_backward_model_client",
    "set_grad_enabled",
    "tellurio",
    "utils",
]
