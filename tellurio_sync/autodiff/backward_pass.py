"""The backward pass (protocol §C.1, §C.2, §G.3).

Two requests, ``get_backprop_ids`` and ``run_backward``, are sent together: one round trip.  So this side must set the
pending flags before the server names the Variables that will get a gradient (§C.1).  It finds them itself, by going
back from the starts to the Variables that they were computed from (``_receivers``).  The answer of the server is used
afterwards, to clear the flags that the server will not clear.  The server handles requests in order.  If it did not,
and refused the first request because the pass had already freed the graph, the pass would still count.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_default_feedback`` | any thread | any thread | one store | – |
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Union

from ..errors import RemoteError, TellurioError, UsageError, shorten_repr
from ..model.call import Call
from ..model.registries import Registries
from ..model.reply_checks import check_message
from ..model.restorable import reference
from ..model.session_link import SessionLink
from ..model.variable import Feedback, Variable, sources_of
from ..model.variable_state import holds_grad
from ..model.wire import link_of, wait_until_made
from .left_out import ON_ERROR, check_share, warn_of_left_out

logger: logging.Logger = logging.getLogger(__name__)

_FLAG = "_pending_grad"
_FEEDBACK = "feedback"
"""The extension of servers that need not ask for what is known (protocol §K.5)."""

AFTER = "after"
"""The extension of servers that begin a request when an earlier one has ended (protocol §K.15)."""

CRITIC: Final = "critic"
RECORDS: Final = "records"
BATCH_CRITIC: Final = "batch_critic"
_DONE = "Backward pass executed successfully."
_default_feedback: Feedback = RECORDS


def set_default_feedback(feedback: Feedback) -> None:
    """What ``backward(feedback=None)`` asks of a server that can choose, in all threads of this process.

    ``"records"`` at first; ``tellurio_sync.compat`` sets ``"critic"``, so that programs that were moved over end as
    before. Thread-safe, does not block.

    Raises:
        ValueError: another kind of feedback.
    """
    global _default_feedback
    _check_feedback(feedback)
    _default_feedback = feedback


Variables = Union[Variable, Sequence[Variable]]


def backward(
    variables: Variables,
    grad_variables: Variable | Sequence[Variable | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Variables | None = None,
    max_failed: float | None = None,
    feedback: Feedback | None = None,
) -> None:
    """Compute feedback for every leaf that needs it, from ``variables`` back through the graph.

    Gradients are appended to ``grad`` of the leaves (and of computed Variables with ``retain_grad()``), one per
    path. They have arrived when this returns. Two calls, the second of them long, in one round trip.

    Args:
        variables: where to start.
        grad_variables: the feedback on each start; required for starts that hold a list. One Variable, or one
            per start (None: no feedback on this start).
        retain_graph: keep the graph for another pass; None: as ``create_graph``.
        create_graph: make the gradients themselves part of a graph.
        inputs: collect gradients in these leaves only.
        max_failed: the share of a batch, from 0 to 1, for which feedback may be missing because a language model
            failed; those samples are left out, with a ``SamplesLeftOut`` warning. None: as the server decides, which
            is 0.5 for the local backend. Other servers do not look at it.
        feedback: what evaluators send backward. ``"records"``: what is known of each sample (its inputs, output,
            target, score and a judge's explanation), which asks no language model; the next step shows it to the
            model that rewrites. Only what another function has made, such as the answer that a second chat uses, and
            feedback in words (``grad_variables``) cost one question of the backward model for all samples.
            ``"batch_critic"``: the same, and one question of the backward model about all samples of a batch that came
            out wrong, with their inputs, for each chat; it may be worth that where a score without words says too
            little of what is wrong. ``"critic"``: a text by the backward model for each sample, one question by the
            evaluator and one by each chat, as afnio asks. None: ``"records"`` (with ``tellurio_sync.compat``
            ``"critic"``) at a server that can choose (the local backend can), else what the server does, which is
            ``"critic"``.

    Raises:
        SamplesFailed: feedback is missing for more samples than that.
        TypeError, ValueError: an argument of the wrong type, or another kind of ``feedback``.
        UsageError: ``variables`` or ``inputs`` is empty, there are not as many gradients as starts, or the server does
            not know one of them, or not this ``feedback``.
        RemoteError: the pass failed on the server.
    """
    BackwardPass(variables, grad_variables, retain_graph, create_graph, inputs, max_failed, feedback).run()


class BackwardPass:
    """A backward pass that has been checked; the arguments are those of ``backward``, as is what it raises.

    ``run`` makes it. Or, inside of a call that changes ``changes``: ``begin`` gives its requests, ``take`` gets what
    came of them, ``give_up`` is called if nothing comes any more; and ``warn`` after the call.

    Attributes:
        link: the session.
    """

    def __init__(
        self,
        variables: Variables,
        grad_variables: Variable | Sequence[Variable | None] | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Variables | None = None,
        max_failed: float | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        self._starts = _as_list("variables", variables)
        if inputs is not None:
            _as_list("inputs", inputs)
        _check_gradients(grad_variables, len(self._starts))
        self._share = check_share(max_failed)
        _check_feedback(feedback)
        self._feedback = feedback
        self._variables, self._grad_variables, self._inputs = variables, grad_variables, inputs
        self._options = {"retain_graph": retain_graph, "create_graph": create_graph}
        arguments = [self._starts, grad_variables, inputs]
        wait_until_made(arguments)
        self.link: SessionLink = link_of(arguments)
        self._receivers = _receivers(self._starts)
        self._is_pending = False
        self._done: Any = None

    @property
    def changes(self) -> list[Variable]:
        """What it changes on the server: the graph of the starts is freed there."""
        return [*self._receivers, *self._starts]

    def run(self) -> None:
        """Make the pass. Blocks."""
        with Call(self.link, changes=self.changes) as call:
            try:
                self.take(call, call.request_many(self.begin()))
            except BaseException:
                self.give_up()
                raise
        self.warn()

    def begin(self, name: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """The requests. Reading gradients waits from now on.

        Args:
            name: of the pass, for requests that come after it (protocol §K.15).
        """
        extensions = self.link.extensions
        question = {"variables": _references(self._variables)}
        params = {
            **question,
            "grad_variables": _references(self._grad_variables),
            **self._options,
            "inputs": _references(self._inputs),
        }
        if self._share is not None and ON_ERROR in extensions:
            params["max_failed"] = self._share
        if _FEEDBACK in extensions:
            params["feedback"] = self._feedback or _default_feedback
        elif self._feedback in (RECORDS, BATCH_CRITIC):
            raise UsageError(
                f"This server does not know feedback={self._feedback!r}: it asks a language model for all feedback, "
                "of each sample."
            )
        if name is not None:
            params["name"] = name
        self._is_pending = True
        self.link.registries.mark_pending(self._receivers, _FLAG)
        return [("get_backprop_ids", question), ("run_backward", params)]

    def take(self, call: Call, outcomes: Sequence[Any]) -> None:
        """Take the results, or the errors in place of them; raises what failed."""
        answer, done = outcomes
        if isinstance(done, TellurioError):
            # If the server refused both, the first error has the reason.
            raise call.error(answer if isinstance(done, RemoteError) and isinstance(answer, RemoteError) else done)
        check_message("run_backward", done, _DONE)
        self._done = done
        registries = self.link.registries
        ids = _ids_in(answer, registries)
        self._is_pending = False  # the server clears the rest
        registries.clear_pending([one for one in self._receivers if one.variable_id not in ids], _FLAG)

    def give_up(self) -> None:
        """The server will not clear the flags any more. Also after Ctrl-C."""
        if self._is_pending:
            self.link.registries.clear_pending(self._receivers, _FLAG)

    def warn(self) -> None:
        """Tell the user which samples were left out."""
        warn_of_left_out(self._done)


def _check_feedback(feedback: object) -> None:
    if feedback not in (None, CRITIC, RECORDS, BATCH_CRITIC):
        known = f"{RECORDS!r}, {BATCH_CRITIC!r} or {CRITIC!r}"
        raise ValueError(f"feedback must be {known}, not {shorten_repr(feedback)}")


def _receivers(starts: list[Variable]) -> list[Variable]:
    """The Variables that will get a gradient: the starts and their sources that need one and keep it."""
    reached = {*starts, *sources_of(starts)}
    return [variable for variable in reached if variable.requires_grad and holds_grad(variable)]


def _ids_in(answer: Any, registries: Registries) -> frozenset[str]:
    """The ids of the Variables whose flags the server will clear."""
    ids = answer.get("variable_ids", []) if isinstance(answer, dict) else None
    if not isinstance(ids, list):
        logger.warning("The server did not say which Variables get a gradient: %s", shorten_repr(answer))
        return frozenset()
    unknown = [variable_id for variable_id in ids if variable_id not in registries.variables]
    if unknown:
        logger.warning("The server has computed gradients for Variables unknown here: %s", unknown)
    return frozenset(variable_id for variable_id in ids if isinstance(variable_id, str))


def _as_list(name: str, variables: Variables) -> list[Variable]:
    if not isinstance(variables, (Variable, list, tuple)):
        raise TypeError(f"{name} must be a Variable or a list of them, not {type(variables).__name__}")
    listed = [variables] if isinstance(variables, Variable) else list(variables)
    if not listed:
        raise UsageError(f"{name} is empty: there is nothing to compute gradients for.")
    for variable in listed:
        if not isinstance(variable, Variable):
            raise TypeError(f"{name} must be Variables, not {type(variable).__name__}")
    return listed


def _check_gradients(gradients: Variable | Sequence[Variable | None] | None, count: int) -> None:
    if gradients is None or isinstance(gradients, Variable):
        return
    if not isinstance(gradients, (list, tuple)):
        raise TypeError(f"grad_variables must be a Variable or a list of them, not {type(gradients).__name__}")
    if len(gradients) != count:
        raise UsageError(f"{count} variables need as many grad_variables, not {len(gradients)}.")
    for gradient in gradients:
        if not (gradient is None or isinstance(gradient, Variable)):
            raise TypeError(f"grad_variables must be Variables or None, not {type(gradient).__name__}")


def _references(variables: Variable | Sequence[Variable | None] | None) -> Any:
    """One reference for one Variable, a list for several, None for none."""
    if variables is None:
        return None
    if isinstance(variables, Variable):
        return reference(variables)
    return [None if variable is None else reference(variable) for variable in variables]
