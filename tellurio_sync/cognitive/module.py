"""A program as a tree of modules, in the shape of PyTorch's ``Module``.

A module consists of its attributes: nothing has to be registered, and nothing is hidden.  The value of an attribute
decides its kind:

| Kind | Value of the attribute |
|---|---|
| parameter | a ``Parameter``; or None, registered by ``register_parameter`` |
| buffer | a ``Variable`` that was registered by ``register_buffer`` |
| module | a ``Module`` |
| chat | a list of messages, ``[{"role": str, "content": [Variable, ...]}, ...]`` |
| model | a language model |
| completion config | a dict with texts as keys, such as ``{"model": "gpt-4o"}`` |
| function | a plain function |

Attributes whose name begins with ``_`` belong to no kind.

Not thread-safe while attributes are set; whether ``forward`` may run in several threads depends on ``forward``.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..autodiff.messages import Messages, is_multi_turn_messages
from ..errors import UsageError
from ..model.batch.block import batch
from ..model.data import copy_data
from ..model.language import ChatCompletionModel
from ..model.suppression import suppress_variable_notifications
from ..model.variable import Parameter, Variable

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..optim.optimizer import Optimizer

_EXTRA_STATE = "_extra_state"


class LoadedKeys(NamedTuple):
    """The keys that ``load_state_dict`` did not use, and those that it did not find."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of programs: subclass it, set attributes in ``__init__``, and write ``forward``.

    ::

        class Classifier(te.Module):
            def __init__(self, lm):
                super().__init__()
                self.lm = lm
                self.prompt = te.Parameter("Tell the sentiment.", role="system prompt")
                self.chat = [{"role": "system", "content": [self.prompt]}, ...]

            def forward(self, message):
                return te.functional.chat_completion(self.lm, self.chat, inputs={"message": message})

    Attributes:
        training: whether the module is being trained; see ``train`` and ``eval``.
    """

    training: bool = True

    # Class attributes, so that a subclass which forgets super().__init__() works all the same.
    _buffer_names: Mapping[str, bool] = types.MappingProxyType({})  # name -> whether it is saved
    _parameter_names: tuple[str, ...] = ()  # of parameters that are None
    _optimizers: Optimizer | list[Optimizer] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of the module. Write it in the subclass.

        Raises:
            NotImplementedError: the subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(): write one in the class.")

    # --- what belongs to it ----------------------------------------------------------------------------

    def register_buffer(self, name: str, variable: Variable | None, persistent: bool = True) -> None:
        """Set an attribute to a Variable that belongs to the module but is not to be optimised.

        Args:
            name: of the attribute.
            variable: the Variable; None: none yet.
            persistent: whether ``state_dict`` holds it.

        Raises:
            TypeError: not a Variable, or a name that no attribute can have.
            KeyError: the module has such an attribute.
        """
        self._check_new(name)
        if variable is not None and not isinstance(variable, Variable):
            raise TypeError(f"The buffer {name!r} must be a Variable or None, not {type(variable).__name__}.")
        self._buffer_names = {**self._buffer_names, name: persistent}
        setattr(self, name, variable)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set an attribute to a Parameter, or to None if there is none yet. Raises as ``register_buffer``."""
        self._register(name, param, Parameter)
        self._parameter_names = (*self._parameter_names, name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Set an attribute to a module. Raises as ``register_buffer``."""
        self._register(name, module, Module)

    def register_model(self, name: str, model: ChatCompletionModel | None) -> None:
        """Set an attribute to a language model. Raises as ``register_buffer``."""
        self._register(name, model, ChatCompletionModel)

    def register_chat(self, name: str, messages: Messages | None) -> None:
        """Set an attribute to a chat. Raises as ``register_buffer``."""
        if messages is not None and not is_multi_turn_messages(messages):
            form = '[{"role": str, "content": [Variable, ...]}, ...]'
            raise TypeError(f"The chat {name!r} must be {form}, not {messages!r}.")
        self._register(name, messages, list)

    def register_completion_config(self, name: str, args: dict[str, Any] | None) -> None:
        """Set an attribute to arguments for completions. Raises as ``register_buffer``."""
        self._register(name, args, dict)

    def register_function(self, name: str, func: Callable[..., Any] | None) -> None:
        """Set an attribute to a plain function. Raises as ``register_buffer``."""
        self._register(name, func, types.FunctionType)

    def _register(self, name: str, value: object, kind: type) -> None:
        self._check_new(name)
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name!r} must be a {kind.__name__} or None, not {type(value).__name__}.")
        setattr(self, name, value)

    def _check_new(self, name: object) -> None:
        if not isinstance(name, str):
            raise TypeError(f"The name of an attribute must be a text, not {type(name).__name__}.")
        if not name.isidentifier() or name.startswith("_"):
            raise KeyError(f"{name!r} cannot be the name of an attribute that is registered.")
        if hasattr(self, name) and name not in self._buffer_names and name not in self._parameter_names:
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already.")

    def children(self) -> Iterator[Module]:
        """The modules among the attributes, each once."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules among the attributes with their names, each once."""
        return _each_once(self._own(_is_module), remove_duplicate=True)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, with dotted names.

        Args:
            memo: modules to leave out; every module that is given is added to it.
            prefix: put before each name.
            remove_duplicate: whether a module that is reached twice is given once.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._own(_is_module):
            yield from module.named_modules(memo, _joined(prefix, name), remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, of the modules below as well, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with dotted names.

        Args:
            prefix: put before each name.
            recurse: whether the parameters of the modules below are given, too.
            remove_duplicate: whether a parameter that is reached twice is given once.
        """
        return self._named(_is_parameter, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Variable]:
        """The buffers; see ``parameters``."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Variable]]:
        """The buffers with dotted names; see ``named_parameters``."""
        pairs = (
            (_joined(where, name), getattr(module, name))
            for where, module in self._places(prefix, recurse, remove_duplicate)
            for name in module._buffer_names
            if getattr(module, name, None) is not None
        )
        return _each_once(pairs, remove_duplicate)

    def chats(self, recurse: bool = True) -> Iterator[Messages]:
        """The chats; see ``parameters``."""
        return (chat for _, chat in self.named_chats(recurse=recurse))

    def named_chats(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Messages]]:
        """The chats with dotted names; see ``named_parameters``."""
        return self._named(is_multi_turn_messages, prefix, recurse, remove_duplicate)

    def models(self, recurse: bool = True) -> Iterator[ChatCompletionModel]:
        """The language models; see ``parameters``."""
        return (model for _, model in self.named_models(recurse=recurse))

    def named_models(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, ChatCompletionModel]]:
        """The language models with dotted names; see ``named_parameters``."""
        return self._named(_is_model, prefix, recurse, remove_duplicate)

    def completion_configs(self, recurse: bool = True) -> Iterator[dict[str, Any]]:
        """The arguments for completions; see ``parameters``."""
        return (config for _, config in self.named_completion_configs(recurse=recurse))

    def named_completion_configs(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The arguments for completions with dotted names; see ``named_parameters``."""
        return self._named(_is_config, prefix, recurse, remove_duplicate)

    def functions(self, recurse: bool = True) -> Iterator[Callable[..., Any]]:
        """The functions; see ``parameters``."""
        return (function for _, function in self.named_functions(recurse=recurse))

    def named_functions(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The functions with dotted names; see ``named_parameters``."""
        return self._named(_is_function, prefix, recurse, remove_duplicate)

    def _own(self, is_kind: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
        for name, value in list(vars(self).items()):
            if not name.startswith("_") and is_kind(value):
                yield name, value

    def _places(self, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Module]]:
        if recurse:
            return self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        return iter([(prefix, self)])

    def _named(
        self, is_kind: Callable[[Any], bool], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        pairs = (
            (_joined(where, name), value)
            for where, module in self._places(prefix, recurse, remove_duplicate)
            for name, value in module._own(is_kind)
        )
        return _each_once(pairs, remove_duplicate)

    # --- what is done to all of it -------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set whether this module and all below are being trained. Local.

        Raises:
            ValueError: ``mode`` is no bool.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"mode must be True or False, not {mode!r}.")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set for all parameters whether feedback is wanted. One round trip, in a batch none."""
        with batch():
            for parameter in self.parameters():
                parameter.requires_grad_(requires_grad)
        return self

    def empty_grad(self) -> None:
        """Drop the gradients of all parameters that have some. One round trip, in a batch none."""
        with batch():
            for parameter in self.parameters():
                if parameter.grad:
                    parameter.grad = []

    # --- saving and loading ----------------------------------------------------------------------------

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The state of the module: parameters, saved buffers, chats, completion configs, extra state. Local.

        Models and functions are not part of it: the constructor makes them.

        Args:
            destination: a dict that is filled and returned; None: a new one.
            prefix: put before each key.
            keep_vars: True: the Variables themselves; False: copies that the server does not know.

        Returns:
            Dotted name to value; ``te.save`` writes it.
        """
        state = {} if destination is None else destination
        own: dict[int, Any] = {}  # one copy of what stands in two places, so that it is one again when loaded

        def kept(value: Any) -> Any:
            if keep_vars:
                return value
            if isinstance(value, Variable):
                if id(value) not in own:
                    own[id(value)] = _unshared(value)
                return own[id(value)]
            if isinstance(value, (list, tuple)):
                return [kept(item) for item in value]
            if isinstance(value, dict):
                return {key: kept(item) for key, item in value.items()}
            return copy.deepcopy(value)

        for where, module in self.named_modules(prefix=prefix.removesuffix("."), remove_duplicate=False):
            for name, value in module._saved():
                state[_joined(where, name)] = kept(value)
            extra = module.get_extra_state()
            if extra is not None:
                state[_joined(where, _EXTRA_STATE)] = extra
        return state

    def _saved(self) -> Iterator[tuple[str, Any]]:
        for name, value in self._own(lambda value: _is_parameter(value) or is_multi_turn_messages(value)):
            yield name, value
        yield from self._own(_is_config)
        for name, is_saved in self._buffer_names.items():
            if is_saved and getattr(self, name, None) is not None and not _is_parameter(getattr(self, name)):
                yield name, getattr(self, name)

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        model_clients: Mapping[str, ChatCompletionModel] | None = None,
    ) -> LoadedKeys:
        """Load a ``state_dict``. One round trip, in a batch none; nothing changes if it does not fit.

        Args:
            state_dict: from ``state_dict()``, perhaps saved and loaded.
            strict: whether every key must be used, and none may be missing.
            assign: True: the attributes become the Variables of ``state_dict``, which are made on the server; False:
                the Variables stay, and get the data and the role. Where the form differs, new ones are made.
            model_clients: dotted name to a model that is set as this attribute.

        Returns:
            The keys that are missing, and those that are not used.

        Raises:
            UsageError: ``strict``, and the keys are not the same.
            TypeError, ValueError: a value that does not fit its place; the text names it.
            BatchFailed: the server refused some of it; names each, and why.
        """
        places = dict(self.named_modules(remove_duplicate=False))
        targets: dict[str, tuple[Module, str]] = {}
        for where, module in places.items():
            for name, _ in module._saved():
                targets[_joined(where, name)] = (module, name)
            if module.get_extra_state() is not None or _joined(where, _EXTRA_STATE) in state_dict:
                targets[_joined(where, _EXTRA_STATE)] = (module, _EXTRA_STATE)
        missing = [key for key in targets if key not in state_dict]
        unexpected = [key for key in state_dict if key not in targets]
        if strict and (missing or unexpected):
            raise UsageError(_key_text(type(self).__name__, missing, unexpected))
        used = {key: targets[key] for key in state_dict if key in targets}
        for key, (module, name) in used.items():
            if name != _EXTRA_STATE:
                _check_fits(key, getattr(module, name), state_dict[key], assign)
        models = [(*_place_of(places, key), model) for key, model in (model_clients or {}).items()]
        # A Parameter that stands in a chat as well has a key of its own, and that counts.
        own = {id(getattr(module, name, None)) for module, name in used.values()}
        with batch():
            for key, (module, name) in used.items():
                if name == _EXTRA_STATE:
                    module.set_extra_state(state_dict[key])
                elif assign:
                    setattr(module, name, _shared(state_dict[key]))
                else:
                    present = getattr(module, name)
                    setattr(module, name, _taken_over(present, state_dict[key], own - {id(present)}))
        for module, name, model in models:
            setattr(module, name, model)
        return LoadedKeys(missing, unexpected)

    def get_extra_state(self) -> Any:
        """Extra state for ``state_dict``; None: there is none. Override it together with ``set_extra_state``."""
        return None

    def set_extra_state(self, state: Any) -> None:
        """Load the extra state that ``get_extra_state`` has given. Override it together with that method.

        Raises:
            NotImplementedError: the subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no set_extra_state(): write one in the class.")

    # --- training ----------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """One batch of the training. Write it in the subclass; ``Trainer`` calls it.

        Args:
            batch: as the data loader gives it.
            batch_idx: its number in the epoch, from 0.

        Returns:
            ``(score, explanation)``; or a dict with them under ``"loss"`` and further metrics; None: skip the batch.

        Raises:
            NotImplementedError: the subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no training_step(): write one in the class.")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """One batch of the validation; see ``training_step``."""
        raise NotImplementedError(f"{type(self).__name__} has no validation_step(): write one in the class.")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """One batch of the test; see ``training_step``."""
        raise NotImplementedError(f"{type(self).__name__} has no test_step(): write one in the class.")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """One batch of ``Trainer.predict``: by default, ``forward`` of the batch."""
        return self(*batch) if isinstance(batch, tuple) else self(batch)

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        """The optimizer of the training, or several. Write it in the subclass; ``Trainer`` calls it."""
        raise NotImplementedError(f"{type(self).__name__} has no configure_optimizers(): write one in the class.")

    def optimizers(self) -> Optimizer | list[Optimizer]:
        """The optimizers that ``configure_optimizers`` gave to the trainer.

        Raises:
            UsageError: no trainer has begun yet.
        """
        if self._optimizers is None:
            raise UsageError("No optimizers yet: Trainer.fit() makes them by configure_optimizers().")
        return self._optimizers

    # --- what it looks like ------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The text that ``repr`` shows beside the modules below. Override it."""
        return ""

    def __repr__(self) -> str:
        lines = self.extra_repr().splitlines()
        for name, module in self._own(_is_module):
            first, *rest = repr(module).splitlines()
            lines += [f"({name}): {first}", *rest]
        if not lines:
            return f"{type(self).__name__}()"
        if len(lines) == 1 and not any(True for _ in self._own(_is_module)):
            return f"{type(self).__name__}({lines[0]})"
        body = "\n".join(f"  {line}" for line in lines)
        return f"{type(self).__name__}(\n{body}\n)"


def _is_module(value: Any) -> bool:
    return isinstance(value, Module)


def _is_parameter(value: Any) -> bool:
    return isinstance(value, Parameter)


def _is_model(value: Any) -> bool:
    return isinstance(value, ChatCompletionModel)


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_function(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, types.BuiltinFunctionType))


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _each_once(pairs: Iterator[tuple[str, Any]], remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for name, value in pairs:
        if remove_duplicate and id(value) in seen:
            continue
        seen.add(id(value))
        yield name, value


# --- saving and loading: the values -----------------------------------------------------------------------


def _unshared(variable: Variable) -> Variable:
    data, role, requires_grad = copy_data(variable.data), variable.role, variable.requires_grad
    with suppress_variable_notifications():
        return type(variable)(data, role, requires_grad)


def _shared(value: Any) -> Any:
    """The same with Variables that the server knows."""
    if isinstance(value, Variable):
        return value if value.variable_id is not None else type(value)(value.data, value.role, value.requires_grad)
    if isinstance(value, (list, tuple)):
        return [_shared(item) for item in value]
    if isinstance(value, dict):
        return {key: _shared(item) for key, item in value.items()}
    return value


def _taken_over(present: Any, saved: Any, left_out: set[int]) -> Any:
    """``present`` with the data of ``saved``; where the forms differ, what ``saved`` says, with new Variables.

    ``left_out``: the ids of objects that stay as they are.
    """
    if id(present) in left_out:
        return present
    if isinstance(present, Variable) and isinstance(saved, Variable):
        # Whether feedback is wanted is the program's business, as in PyTorch.
        present.data = copy_data(saved.data)
        if present.role != saved.role:
            present.role = saved.role
        return present
    if isinstance(present, list) and isinstance(saved, (list, tuple)) and len(present) == len(saved):
        return [_taken_over(one, other, left_out) for one, other in zip(present, saved)]
    if isinstance(present, dict) and isinstance(saved, dict) and present.keys() == saved.keys():
        return {key: _taken_over(present[key], saved[key], left_out) for key in present}
    return _shared(saved)


def _check_fits(key: str, present: Any, saved: Any, assign: bool) -> None:
    if isinstance(present, Variable):
        wanted: type = type(present) if assign else Variable
        if not isinstance(saved, wanted):
            raise TypeError(f"{key} is a {type(present).__name__}, and state_dict has a {type(saved).__name__} for it.")
    elif is_multi_turn_messages(present) and not is_multi_turn_messages(saved):
        raise TypeError(f"{key} is a chat, and state_dict has a {type(saved).__name__} for it.")
    elif isinstance(present, dict) and not isinstance(saved, dict):
        raise TypeError(f"{key} is a dict, and state_dict has a {type(saved).__name__} for it.")


def _place_of(places: Mapping[str, Module], key: str) -> tuple[Module, str]:
    where, _, name = key.rpartition(".")
    if where not in places:
        raise ValueError(f"model_clients names {key!r}: there is no module {where!r}.")
    return places[where], name


def _key_text(name: str, missing: list[str], unexpected: list[str]) -> str:
    parts = [f"state_dict does not fit {name}"]
    if missing:
        parts.append(f"it lacks {', '.join(missing)}")
    if unexpected:
        parts.append(f"it has {', '.join(unexpected)} without a place")
    return f"{': '.join([parts[0], '; '.join(parts[1:])])}. Pass strict=False to load what fits."


def set_optimizers(agent: Module, optimizers: Optimizer | list[Optimizer]) -> None:
    """Let ``agent.optimizers()`` give these. For the trainer, which has made them."""
    agent._optimizers = optimizers
