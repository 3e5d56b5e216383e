"""What every optimizer does: parameter groups, steps, checkpoints (protocol §I).

An optimizer lives on the server.  If the user changes a group here, or loads a checkpoint, the server's optimizer
does not know, and no method can tell it (protocol §I.2).  From then on each step sends everything that it
needs, and the state is kept here.  The user sees no difference.

Not thread-safe: only one thread at a time may step one optimizer.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``state`` | the thread that steps; receive thread, after a step that was given up | any thread | one store | – |
| ``param_groups``, ``rejected``, ``_clearing`` | the thread that steps, the user | the same | left to the user | – |
| ``_told``, ``_is_on_server`` | the thread that steps, a restore | the same | no call is under way | ``restore_gate`` |
| ``optimizer_id``, ``_lost`` | a restore | any thread | no call is under way | ``restore_gate`` |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Union

from ..autodiff.backward_pass import AFTER, BackwardPass, Variables
from ..errors import ClosedByUser, ConnectionLost, RemoteProtocolError, TellurioError, UsageError, shorten_repr
from ..model.batch.block import batch
from ..model.batch.changes import UPDATE, Change
from ..model.call import Call
from ..model.language import ChatCompletionModel
from ..model.reply_checks import check_message, id_member, json_form, member
from ..model.restorable import Restorable
from ..model.riders import Requests, Rider
from ..model.session_link import SessionLink
from ..model.variable import Variable
from ..model.variable_state import held_data, held_grad, set_local
from ..model.wire import link_of, mirrored_in, serialise, wait_until_made
from . import checkpoint
from .functional import check_knows_accept
from .state import State, StateDecoder
from .told import rejected_in, warn_of_told

ParamGroup = dict[str, Any]
Params = Iterable[Union[Variable, ParamGroup]]
Closure = Callable[[], Any]

log: logging.Logger = logging.getLogger(__name__)

_FLAG = "_pending_data"
_STEP_DONE = "Optimizer step executed successfully."
_CLEAR_DONE = "Gradients cleared successfully."


class Optimizer(Restorable):
    """Base of the optimizers. Use a subclass.

    Attributes:
        defaults: the settings that a group has unless it gives others.
        param_groups: list of ``{"params": [...], <settings>}``. May be changed.
        state: for each parameter, what the optimizer remembers of earlier steps.
        optimizer_id: the id on the server.
        rejected: how many times a parameter has kept its data because new data was no better (``accept`` of ``TGD``).
    """

    name: ClassVar[str] = ""
    """The class name that the server knows."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        groups, is_grouped = _as_groups(params)
        self.defaults = defaults
        wait_until_made([groups, defaults])
        self._link: SessionLink = link_of([groups, defaults])
        for settings in (defaults, *groups):
            check_knows_accept(self._link, settings.get("accept"))
        self.rejected: int = 0
        shape = groups if is_grouped else groups[0]["params"]
        self._lost: str | None = None
        self._clearing: Rider | None = None
        with Call(self._link) as call:
            result = call.request("create_optimizer", self._creation(shape))
            self.optimizer_id: str = id_member("create_optimizer", result, "optimizer_id")
            decoder = StateDecoder(self._link)
            self.state: State = decoder.state(member("create_optimizer", result, "state"))
            received = decoder.value(member("create_optimizer", result, "param_groups"))
            if not isinstance(received, list) or len(received) != len(groups):
                raise RemoteProtocolError(f"The server did not make {len(groups)} groups.", received=repr(result))
            self.param_groups: list[ParamGroup] = [_checked_group(group) for group in received]
            self._told = self._fingerprint()
            self._is_on_server = True
            self._link.registries.optimizers.register(self.optimizer_id, self)

    # --- steps -----------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """Let the optimizer give every parameter with gradients new data. One long call: one round trip.

        (One for each group, if a group was changed here or a checkpoint was loaded.)  Reading ``data`` of a
        parameter waits until its new data has come.

        Args:
            closure: called first, on this thread; usually computes the loss.

        Returns:
            What ``closure`` returns, or ``(None, None)``.

        Raises:
            RemoteError: the step failed on the server.
            UnknownVariable: a copy that the reply names did not come.
        """
        self._settle_clearing()
        outcome = (None, None) if closure is None else closure()
        if not self._step_there():
            self._step_all_here()
        return outcome

    def backward_and_step(self, variables: Variables) -> None:
        """As ``backward(variables)`` and then ``step()``: one round trip where the server can (protocol §K.15).

        Other servers, and an optimizer whose groups were changed or loaded here, take two. If the pass fails, there is
        no step.

        Raises:
            As ``backward`` and ``step``.
        """
        self._settle_clearing()
        first = BackwardPass(variables)
        if AFTER not in self._link.extensions or first.link is not self._link:
            first.run()
            self.step()
        elif not self._step_there(first):
            first.run()
            self._step_all_here()

    def _step_there(self, first: BackwardPass | None = None) -> bool:
        """One step of the optimizer on the server; False, and nothing done, if the server's is outdated.

        Args:
            first: what the server does before the step.
        """
        registries = self._link.registries
        parameters = self._parameters()
        changes = [self, *parameters, *(() if first is None else first.changes)]
        with Call(self._link, changes=changes, take_over=self._take_over_step) as call:
            self._check_not_lost()
            # Not checked earlier, because a restore may have made a new optimizer on the server while this call waited.
            self._is_on_server = self._is_on_server and self._fingerprint() == self._told
            if not self._is_on_server:
                return False
            params = {"optimizer_id": self.optimizer_id}
            result = None
            try:
                if first is None:
                    registries.mark_pending(parameters, _FLAG)
                    result = call.request("run_step", params)
                else:
                    name = f"pass {call.ticket}"  # other threads may do the same at this moment
                    requests = first.begin(name=name)
                    registries.mark_pending(parameters, _FLAG)
                    *of_pass, outcome = call.request_many([*requests, ("run_step", {**params, AFTER: name})])
                    first.take(call, of_pass)
                    if isinstance(outcome, TellurioError):
                        raise call.error(outcome)
                    result = outcome
                check_message("run_step", result, _STEP_DONE)
                self._take_over_step(result)
            except BaseException as exc:
                # Also after Ctrl-C: the server will not clear these flags any more.
                registries.clear_pending(parameters, _FLAG)
                if first is not None:
                    first.give_up()
                if result is not None and not isinstance(exc, Exception):
                    self._take_over_step(result)  # interrupted just then: the step was made all the same
                raise
        if first is not None:
            first.warn()
        warn_of_told(result)
        self.rejected += rejected_in(result)
        return True

    def _take_over_step(self, result: Any) -> None:
        """What the optimizer remembers after a step that was made on the server, if also late, after Ctrl-C."""
        self.state = StateDecoder(self._link).state(member("run_step", result, "state"))

    def _step_all_here(self) -> None:
        before = [(parameter, held_data(parameter)) for parameter in self._parameters()]
        try:
            self._step_here()
        except ConnectionLost:
            # Each group is a call. The step has not happened, so what earlier groups did has not happened either.
            for parameter, data in before:
                set_local(parameter, "_data", data)
            # No call is under way any more: a restore may already have found them as they were.
            self._link.registries.mark_unsure((parameter for parameter, _ in before), at_once=True)
            raise

    def _step_here(self) -> None:
        """One step that sends everything it needs. Updates ``state`` at the end."""
        raise NotImplementedError

    def clear_grad(self) -> None:
        """Empty the gradient list of every parameter, there and here (the same list object). One round trip.

        It does not fail where the connection is lost meanwhile: the gradients are gone here, and the restore sees to
        it that they are gone there.  So a loop that tries its batch again never repeats a step that was made.
        """
        parameters = self._parameters()
        wait_until_made(parameters)
        with Call(self._link, changes=[self, *parameters]) as call:
            self._check_not_lost()
            try:
                self._clear_grad_there(call, parameters)
            except ClosedByUser:
                raise
            except ConnectionLost as lost:
                call.leave_to_restore()
                log.debug("clear_grad: left to the restore: %s", lost)
            # Before the call ends: a restore that began earlier would take what is here for what is to be there.
            for parameter in parameters:
                held_grad(parameter).clear()

    def clear_grad_with_next_call(self) -> Rider:
        """As ``clear_grad``, but without waiting: the server is told with the next call of this thread, before it.

        Returns:
            What ``settle`` can be called of: it tells the server now, if no call has done so, and raises what the
            server says. The next ``step`` or ``backward_and_step`` does that, too.
        """
        parameters = self._parameters()
        wait_until_made(parameters)
        for parameter in parameters:
            held_grad(parameter).clear()

        def requests() -> Requests:
            self._check_not_lost()
            if self._is_on_server:
                return [("clear_grad", {"optimizer_id": self.optimizer_id})]
            return [(UPDATE, Change(parameter, "_grad", []).params()) for parameter in parameters]

        self._clearing = Rider(self._link, self, requests)
        return self._clearing

    def _settle_clearing(self) -> None:
        clearing, self._clearing = self._clearing, None
        if clearing is not None:
            clearing.settle()

    def _clear_grad_there(self, call: Call, parameters: list[Variable]) -> None:
        if self._is_on_server:
            result = call.request("clear_grad", {"optimizer_id": self.optimizer_id})
            check_message("clear_grad", result, _CLEAR_DONE)
        else:
            call.tell([Change(parameter, "_grad", [], apply=held_grad(parameter).clear) for parameter in parameters])

    # --- groups ----------------------------------------------------------------------------------

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Optimise more parameters, which may have other settings. One round trip.

        Args:
            param_group: ``{"params": [...]}`` and settings that differ from the defaults.

        Raises:
            TypeError: no such dict.
            ValueError: a parameter twice, or none.
        """
        group = _checked_group(param_group)
        _check_parameters([*self.param_groups, group])
        wait_until_made(group)
        with Call(self._link, changes=[self]) as call:
            self._check_not_lost()
            sent = {
                "optimizer_id": self.optimizer_id,
                "messages": self._serialise(self.defaults["messages"]),
                "param_group": self._serialise(group),
            }
            result = call.request("add_param_group", sent)
            received = StateDecoder(self._link).value(member("add_param_group", result, "param_group"))
            is_current = self._fingerprint() == self._told
            self.param_groups.append(_checked_group(received))
            if is_current:
                self._told = self._fingerprint()

    # --- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Groups and state, with parameters as running numbers and models described (protocol §I.2). Local."""
        return checkpoint.pack(self.param_groups, self.state)

    def load_state_dict(
        self,
        state_dict: dict[str, Any],
        model_clients: ChatCompletionModel | Sequence[ChatCompletionModel | None] | None = None,
    ) -> None:
        """Load groups and state from a checkpoint, for the parameters of this optimizer.

        Args:
            state_dict: from ``state_dict()``.
            model_clients: one model for all groups, or one per group, because checkpoints hold no models. None: each
                group keeps the one that it has here.

        Variables of an unpickled checkpoint are made on the server in one round trip; without such Variables there is
        no round trip.

        Raises:
            ValueError: it has other groups, or needs models that are not given.
            BatchFailed: the server refused some of the Variables.
        """
        with batch():
            groups, state = checkpoint.unpack(state_dict, self.param_groups, model_clients)
        self.param_groups[:] = groups
        self.state = state
        self._is_on_server = False

    # --- inside ----------------------------------------------------------------------------------

    def _parameters(self) -> list[Variable]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _serialise(self, value: Any) -> Any:
        # This object keeps everything in the value alive, so nothing has to be kept here.
        return serialise(value, self._link.registries, [])

    def _fingerprint(self) -> Any:
        """The groups in their JSON form. While it does not change, the server knows the groups as they are."""
        return json_form(self._serialise(self.param_groups))

    def _check_not_lost(self) -> None:
        if self._lost is not None:
            raise UsageError(self._lost)

    # --- for a restore ---------------------------------------------------------------------------

    def _creation(self, params: Any = None) -> dict[str, Any]:
        """The parameters of ``create_optimizer``; ``params`` None: for the groups as they are now."""
        return {
            "optimizer_name": self.name,
            "params": self._serialise(self.param_groups if params is None else params),
            "defaults": self._serialise(self.defaults),
        }

    def _uses(self) -> set[Any]:
        """The Variables and models that the server's optimizer refers to."""
        return set(mirrored_in([self.param_groups, self.defaults]))

    def _mark_lost(self, reason: str) -> None:
        self._lost = reason

    def _renewed(self, link: SessionLink, optimizer_id: str) -> None:
        """The server has a new optimizer for this one: with the groups as they are here, but without former steps."""
        former, self.optimizer_id, self._lost = self.optimizer_id, optimizer_id, None
        link.registries.optimizers.rename(former, optimizer_id, self)
        self._told = self._fingerprint()
        # No method can give former steps to the server. If there are any, each step sends them.
        self._is_on_server = not any(entry.get("momentum_buffer") for entry in self.state.values())

    def __repr__(self) -> str:
        counts = ", ".join(str(len(group["params"])) for group in self.param_groups)
        return f"{type(self).__name__}(parameters per group: {counts})"


def _as_groups(params: Params) -> tuple[list[ParamGroup], bool]:
    """The groups, and whether ``params`` was a list of groups."""
    if isinstance(params, (Variable, dict)):
        raise TypeError(f"params must be a list of Variables or of groups, not one {type(params).__name__}")
    listed = list(params)
    if not listed:
        raise ValueError("params is empty: there is nothing to optimise")
    is_grouped = all(isinstance(item, dict) for item in listed)
    groups = [_checked_group(item) for item in listed] if is_grouped else [_checked_group({"params": listed})]
    _check_parameters(groups)
    return groups, is_grouped


def _checked_group(group: Any) -> ParamGroup:
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError(f'a group must be a dict with "params", not {shorten_repr(group)}')
    params = group["params"]
    params = [params] if isinstance(params, Variable) else list(params)
    for index, parameter in enumerate(params):
        if not isinstance(parameter, Variable):
            raise TypeError(f"params[{index}] must be a Variable, not {type(parameter).__name__}")
    return {**group, "params": params}


def _check_parameters(groups: list[ParamGroup]) -> None:
    seen: set[Variable] = set()
    for group in groups:
        if not group["params"]:
            raise ValueError("a group has no params: there is nothing to optimise")
        for parameter in group["params"]:
            if parameter in seen:
                raise ValueError(f"a parameter is given twice: {shorten_repr(parameter)}")
            if not parameter.is_leaf:
                raise UsageError(f"Only leaves can be optimised, and this was computed: {shorten_repr(parameter)}")
            seen.add(parameter)
