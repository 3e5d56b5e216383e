"""The mirrored object model: Variables, the graph, language models, and the registries that hold them."""

from __future__ import annotations

from .data import JAGGED
from .graph import GradientEdge, Node
from .language import AsyncOpenAI, CallableModel, ChatCompletionModel, OpenAI
from .registries import Registries
from .serialization import load, save
from .suppression import suppress_variable_notifications
from .variable import Parameter, Variable, is_scalar_variable

__all__ = [
    "JAGGED",
    "AsyncOpenAI",
    "CallableModel",
    "ChatCompletionModel",
    "GradientEdge",
    "Node",
    "OpenAI",
    "Parameter",
    "Registries",
    "Variable",
    "is_scalar_variable",
    "load",
    "save",
    "suppress_variable_notifications",
]
