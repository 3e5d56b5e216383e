"""The restore after a reconnect: the server learns again the objects of this side, as they are here.

What is guaranteed, for calls of the object model of one session (Variables, functions, ``backward``, optimizers):

1. *A call that has returned has happened; a call that has raised* ``ConnectionLost`` *has not.*  This side makes that
   true at once (``model.call``: pushes for a cut-off call are taken back).  The server follows before the next call is
   sent: every object whose state there is uncertain or different is made again, as it is here.  So a batch that is
   tried again never sees half of the first try, wherever the connection was cut.
2. ``Optimizer.clear_grad`` does not fail when the connection is lost: it happens here, and the restore does the same on
   the server.  So ``step`` is the last call of a batch that can be cut off, and no step is ever repeated.
3. The effects of a cut-off call on the server are never seen, even if it is carried out there later: it has the ids of
   objects that this side does not use any more.

4. An operation that makes several changes of one Variable (``copy_``, ``requires_grad_``, ``x += y``) makes all of them
   or none.  The changes in a ``batch`` are separate calls: those that were not answered are taken back.  Variables that
   were not made yet are not lost: they are made when they are used.

Not guaranteed: gradients of passes that ran at the same time over the same leaves, if only some of them were answered;
and runs and metrics, which are REST.

How it is done.  ``get_variable`` is asked for every leaf, many questions at once.  A leaf stays as it is if the answer
describes it as it is here, and no call on it was cut off.  All other leaves are made again (``create_variable``, and
their gradients, by reference); so are the optimizers and the backward model that refer to them.  The server cannot be
asked about models and optimizers (protocol §C), so the leaves stand for them: if the server has forgotten one leaf, or
if there was no leaf to ask about, it is assumed to have forgotten everything.  If it knows everything, only the
questions are sent.

The server cannot be told what an optimizer remembers (momentum); an optimizer that remembers something and is made
again sends it with each later step (see ``optim.optimizer``).

A computed Variable cannot be made again, because its graph was on the server.  It is *lost* if the server has forgotten
it, or if it was computed from a leaf that is made again; to use it raises ``ConnectionLost``, to read its data does
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..autodiff.backward_model import BackwardModel
from ..errors import LocalProtocolError, RemoteError, TellurioError, UsageError
from ..model.language import ChatCompletionModel
from ..model.registries import Registries
from ..model.reply_checks import check_echo, id_member, json_form
from ..model.restorable import check_may_share, creation, lost_reason, mark_lost, reference, renewed, uses
from ..model.session_link import SessionLink
from ..model.variable import Variable, sources_of
from ..model.variable_state import (
    fields_beyond_creation,
    held_data,
    held_grad,
    is_computed,
    known_id,
)
from ..optim.optimizer import Optimizer

Requests = Sequence[tuple[str, dict[str, Any]]]
CallMany = Callable[[Requests], list[Any]]
"""Sends requests together; returns the reply envelope of each, or the error in its place."""

_IN_ONE_GO = 500
_GRAPH_LOST = (
    "the server has lost the objects from which this Variable was computed, with the connection; compute it again"
)


@dataclass(frozen=True)
class Restored:
    """The result of a restore.

    Attributes:
        session_id: the session id of the new connection.
        known: how many leaf Variables the server still had as they are here.
        renewed: objects that were made again there, under new ids: Variables, models, optimizers. Nothing of them is
            lost.
        lost: objects that can no longer be used with the server: computed Variables, and objects that it refused.
    """

    session_id: str
    known: int
    renewed: tuple[Any, ...]
    lost: tuple[Any, ...]

    def __str__(self) -> str:
        return (
            f"restored: {self.known} Variables known, {_counted(self.renewed)} made again, {_counted(self.lost)} lost"
        )


def _counted(objects: tuple[Any, ...]) -> str:
    kinds = Counter(type(item).__name__ for item in objects)
    names = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))
    return f"{len(objects)} ({names})" if names else "0"


def restore(link: SessionLink, call_many: CallMany, session_id: str) -> Restored:
    """Make the server know the objects of this side. Blocks: two round trips, four if any object is made again.

    No call may be in progress, and none may begin, until this returns.  If it raises, it can be started again.

    Raises:
        ConnectionLost, CallTimeout: of ``call_many``.
        RemoteProtocolError: an answer makes no sense.
    """
    return _Restore(link, call_many).run(session_id)


class _Restore:
    """One attempt. The objects to be made again stay noted as unsure until all of them are made."""

    def __init__(self, link: SessionLink, call_many: CallMany) -> None:
        self._link = link
        self._call_many = call_many
        self._registries: Registries = link.registries
        self._held = held = self._registries.begin_restore()
        self._computed = [variable for variable in held.variables if is_computed(variable)]
        self._leaves = list(_with_gradients(variable for variable in held.variables if not is_computed(variable)))
        self._renewed: list[Any] = []
        self._lost: list[Any] = []

    def run(self, session_id: str) -> Restored:
        known, is_remembered = self._ask()
        leaves = [leaf for leaf in self._leaves if leaf not in known]
        models = [model for model in self._held.models if not is_remembered or self._must_renew(model)]
        new: set[Any] = {*leaves, *models}
        optimizers = [
            optimizer
            for optimizer in self._held.optimizers
            if not is_remembered or self._must_renew(optimizer) or not new.isdisjoint(uses(optimizer))
        ]
        backward_model = self._held.backward_model
        if backward_model is not None and is_remembered:
            is_changed = backward_model in self._held.unsure or backward_model.client in new
            backward_model = backward_model if is_changed else None
        todo = {*new, *optimizers, *([backward_model] if backward_model else [])}
        # If the connection is lost meanwhile, the next attempt knows what this one has left undone.
        self._registries.mark_unsure(todo)
        self._lose_computed(new, is_remembered)
        self._renew_models(models)
        self._renew_leaves(leaves)
        self._renew_optimizers(optimizers)
        if backward_model is not None:
            self._set(backward_model)
        self._registries.end_restore([*todo, *self._computed])
        return Restored(session_id, len(known), tuple(self._renewed), tuple(self._lost))

    # --- asking ----------------------------------------------------------------------------------

    def _ask(self) -> tuple[set[Variable], bool]:
        """The leaves that the server has as they are here, and whether it knows all that were asked about."""
        asked = [leaf for leaf in self._leaves if not self._must_renew(leaf) and known_id(leaf) is not None]
        answers = self._answers([("get_variable", {"variable_id": known_id(leaf)}) for leaf in asked])
        known = {leaf for leaf, answer in zip(asked, answers) if _is_same(leaf, answer)}
        # Not only "all were found": a leaf that differs there has been changed by another program.
        return known, bool(asked) and not any(isinstance(answer, TellurioError) for answer in answers)

    def _must_renew(self, item: Any) -> bool:
        return item in self._held.unsure or lost_reason(item) is not None

    def _lose_computed(self, new: set[Any], is_remembered: bool) -> None:
        gone = {*new, *(variable for variable in self._computed if self._must_renew(variable))}
        for variable in self._computed:
            is_gone = not is_remembered or variable in gone or not gone.isdisjoint(sources_of([variable]))
            if is_gone and lost_reason(variable) is None:
                mark_lost(variable, _GRAPH_LOST)
                self._lost.append(variable)

    # --- making again ------------------------------------------------------------------------------

    def _renew_models(self, models: list[ChatCompletionModel]) -> None:
        willing = []
        for model in models:
            try:
                check_may_share(model, self._link)
            except TellurioError as exc:
                self._lose(model, exc)
            else:
                willing.append(model)
        self._renew("create_model", "model_id", willing)

    def _renew_leaves(self, leaves: list[Variable]) -> None:
        self._renew("create_variable", "variable_id", leaves)
        # Gradients are Variables themselves: each has its id by now.
        updates = [(leaf, update) for leaf in leaves if lost_reason(leaf) is None for update in _updates(leaf)]
        for (leaf, params), answer in zip(updates, self._answers([("update_variable", each) for _, each in updates])):
            if isinstance(answer, TellurioError):
                self._lose(leaf, answer)
            else:
                check_echo("update_variable", answer, params)

    def _renew_optimizers(self, optimizers: list[Optimizer]) -> None:
        willing = []
        for optimizer in optimizers:
            lost = next((item for item in uses(optimizer) if lost_reason(item) is not None), None)
            if lost is not None:
                self._lose(optimizer, UsageError(f"it uses {lost!r}, which is lost: {lost_reason(lost)}"))
            else:
                willing.append(optimizer)
        self._renew("create_optimizer", "optimizer_id", willing)

    def _set(self, backward_model: BackwardModel) -> None:
        if lost_reason(backward_model.client) is None:
            (answer,) = self._answers([("set_model_singleton", backward_model.setting())])
            if isinstance(answer, TellurioError):
                self._lose(backward_model.client, answer)

    def _renew(self, method: str, id_key: str, items: Sequence[Any]) -> None:
        answers = self._answers([(method, creation(item)) for item in items])
        for item, answer in zip(items, answers):
            if isinstance(answer, TellurioError):
                self._lose(item, answer)
            else:
                renewed(item, self._link, id_member(method, answer, id_key))
                self._renewed.append(item)

    def _lose(self, item: Any, exc: TellurioError) -> None:
        mark_lost(item, f"the server had forgotten this {type(item).__name__}, and refused to make it again: {exc}")
        self._lost.append(item)

    def _answers(self, requests: Requests) -> list[Any]:
        """The result of each request, or the error: the server refused it, or it cannot be sent as JSON."""
        answers: list[Any] = []
        for start in range(0, len(requests), _IN_ONE_GO):
            part = requests[start : start + _IN_ONE_GO]
            for (method, _), reply in zip(part, self._replies(part)):
                if isinstance(reply, LocalProtocolError):
                    answers.append(reply)
                elif isinstance(reply, BaseException):
                    raise reply
                elif "error" in reply:
                    answers.append(RemoteError.from_reply(reply["error"], method=method))
                else:
                    answers.append(reply["result"])
        return answers

    def _replies(self, requests: Requests) -> list[Any]:
        try:
            return self._call_many(requests)
        except LocalProtocolError as exc:
            # Nothing was sent. One request holds a value that was put into the data without an assignment.
            return [exc] if len(requests) == 1 else [self._replies([request])[0] for request in requests]


def _with_gradients(variables: Iterable[Variable]) -> Iterator[Variable]:
    """Each of these, and each of their gradients to which the server has not given an id."""
    seen: set[Variable] = set()
    stack = list(variables)
    while stack:
        variable = stack.pop()
        if variable not in seen:
            seen.add(variable)
            yield variable
            stack.extend(gradient for gradient in held_grad(variable) if known_id(gradient) is None)


def _is_same(leaf: Variable, answer: Any) -> bool:
    """Whether an answer to ``get_variable`` describes the leaf as it is here (protocol §C)."""
    if not isinstance(answer, dict):
        return False
    grad = answer.get("grad")
    return (
        answer.get("data") == json_form(held_data(leaf))
        and answer.get("role") == leaf.role
        and answer.get("requires_grad") == leaf.requires_grad
        and answer.get("is_leaf") == leaf.is_leaf
        and isinstance(grad, list)
        and [tag.get("variable_id") for tag in grad] == [known_id(gradient) for gradient in held_grad(leaf)]
    )


def _updates(leaf: Variable) -> Iterator[dict[str, Any]]:
    """The ``update_variable`` parameters for everything that ``create_variable`` does not take."""
    for field, value in fields_beyond_creation(leaf):
        if field == "_grad":
            value = [reference(gradient) for gradient in value]
        yield {"variable_id": leaf.variable_id, "field": field, "value": value}
