"""The language model of the backward pass: one per session (protocol §H.4)."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from ..model.call import Call
from ..model.language import CallableModel, ChatCompletionModel, OpenAI
from ..model.model_config import ModelConfig, openai_config, without_secrets
from ..model.reply_checks import check_echo
from ..model.session_link import SessionLink, current_link

_DEFAULT_PATH = "openai/gpt-4o"


class BackwardModel:
    """The language model that writes the feedback, with its settings.

    Attributes:
        client: the model.
        model: its name at the provider.
        completion_args: passed on with each chat; a ``model`` in it wins over the name.
        client_args: the arguments that made the client, without secrets.
    """

    __slots__ = ("__weakref__", "client", "client_args", "completion_args", "model")

    def __init__(
        self,
        client: ChatCompletionModel,
        model: str,
        completion_args: dict[str, Any],
        client_args: dict[str, Any],
    ) -> None:
        self.client: ChatCompletionModel = client
        self.model: str = model
        self.completion_args: dict[str, Any] = completion_args
        self.client_args: dict[str, Any] = client_args

    @property
    def provider(self) -> str:
        """The provider of the model, such as ``openai``."""
        return self.client.provider

    def tell(self, link: SessionLink) -> None:
        """Make it the model of the backward pass on the server. One round trip; raises as ``Call.request``."""
        # If no reply comes, the server may have this model or the former one.
        former = link.registries.backward_model
        with Call(link, changes=() if former is None else (former,)) as call:
            params = self.setting()
            echoed = {name: params[name] for name in ("model_id", "completion_args")}
            check_echo("set_model_singleton", call.request("set_model_singleton", params), echoed)
            link.registries.backward_model = self

    def setting(self) -> dict[str, Any]:
        """The parameters of ``set_model_singleton``."""
        return {
            "model_id": self.client.model_id,
            "model_name": self.model,
            "client_args": self.client_args,
            "completion_args": self.completion_args,
        }

    def __repr__(self) -> str:
        return f"BackwardModel({self.provider}/{self.model}, completion_args={self.completion_args!r})"


def set_backward_model_client(
    model_path: str | ChatCompletionModel = _DEFAULT_PATH,
    client_args: dict[str, Any] | None = None,
    completion_args: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Set the language model that writes the feedback in every backward pass of this session.

    Args:
        model_path: ``"provider/model"`` with the provider ``openai``, or a model object.
        client_args: for a path: the arguments of ``OpenAI(...)``.  Not changed.
        completion_args: passed on with each chat, such as ``{"temperature": 0}``; with an ``OpenAI`` object
            it must name the ``model``.
        more: further completion arguments, such as ``model="gpt-4o"``, as functions and optimizers take them.

    One round trip for a model object, two for a path; none if nothing changes.

    Raises:
        ValueError: a path of another form, another provider, or no model name.
        UsageError: no API key.
        RuntimeError: no consent to send the key.
    """
    client_args = ModelConfig(client_args)  # from here on, no frame of ours shows a key
    link = current_link()
    registries = link.registries
    former = registries.backward_model
    completion_args = {**(completion_args or {}), **more}
    if isinstance(model_path, ChatCompletionModel):
        if client_args:
            raise ValueError("client_args belong to a path: a model object has been made with its own.")
        name = _name_of(model_path, completion_args)
        if former is not None and former.client is model_path and former.completion_args == completion_args:
            return
        client = model_path
    else:
        name = _name_in(model_path)
        config = openai_config(client_args)
        if (
            former is not None
            and former.client.has_config(config)
            and (former.model, former.completion_args) == (name, completion_args)
        ):
            return
        client = OpenAI(**client_args)
    BackwardModel(client, name, completion_args, without_secrets(client_args)).tell(link)


def get_backward_model_client() -> BackwardModel:
    """The model of the backward pass. Does not block.

    Raises:
        UsageError: none has been set.
    """
    model = current_link().registries.backward_model
    if model is None:
        text = "No global model client set for backward pass. Call `set_backward_model_client` to define one."
        raise UsageError(text)
    return model


def _name_in(model_path: str) -> str:
    provider, slash, name = model_path.partition("/") if isinstance(model_path, str) else ("", "", "")
    if not slash or not name:
        raise ValueError("`model_path` must be in the format 'provider/model'")
    if provider != OpenAI.provider:
        raise ValueError(f"Unsupported provider: {provider}.")
    return name


def _name_of(model: ChatCompletionModel, completion_args: dict[str, Any]) -> str:
    if isinstance(model, CallableModel):
        return CallableModel.provider
    name = completion_args.get("model")
    if not isinstance(name, str) or not name:
        raise ValueError("Say which model is meant: completion_args={'model': 'gpt-4o'}.")
    return name
