"""What the backend asks language models, besides the forward chat itself.

Three kinds of question.  The **first line of the system message** tells them apart:

==================  ===========================================  =========================================
first line          asked                                        answer
==================  ===========================================  =========================================
``CRITIC``          once per sample, when an evaluator's score   the feedback, as plain text
                    or explanation goes backward
``PROPAGATOR``      once per sample, when feedback goes back     one JSON object: the name of each listed
                    through a chat completion                    variable -> its feedback (a string)
``OPTIMIZER``       once per parameter and step                  the new data between ``<IMPROVED>`` and
                                                                 ``</IMPROVED>``; text around it is ignored
==================  ===========================================  =========================================

The user message is made of blocks.  A tag stands alone on its line, so that a block can be read back
exactly with :func:`read_blocks`; a line of someone's data that looks like one of our tags is moved
one blank to the right (:func:`leaf`)::

    CRITIC      <PREDICTION> <ROLE> <DATA> </PREDICTION>
                <TARGET>                               absent where there is no target
                <PURPOSE>                              of the evaluation function, e.g. "exact match"
                <SCORE>
                <EXPLANATION>
                <FEEDBACK>                             absent where nothing came from behind the evaluator

    PROPAGATOR  <CONVERSATION> {<MESSAGE> <ROLE> <DATA> </MESSAGE>} </CONVERSATION>     as sent, placeholders filled
                {<INPUT> <NAME> <DATA> </INPUT>}       values of this sample
                <OUTPUT> <ROLE> <DATA> </OUTPUT>       the answer in this sample
                <FEEDBACK>                             on that output
                {<VARIABLE> <NAME> <ROLE> <DATA> </VARIABLE>}     NAME: variable_1, variable_2, ...

    OPTIMIZER   <VARIABLE> <ROLE> <DATA> </VARIABLE>   the current data
                {<FEEDBACK>}                           one per gradient; of a batch: one <ITEM>..</ITEM> per sample
                {<HISTORY> <DATA> {<FEEDBACK>} </HISTORY>}        earlier versions, oldest first (momentum)
                {<INPUT> <NAME> <DATA> </INPUT>}
                {<CONSTRAINT>}

An answer of the wrong form is sent back with :func:`correction` as the next user message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

ChatMessage = dict[str, str]

CRITIC = "You are the critic in an optimisation of texts."
PROPAGATOR = "You pass feedback back through a conversation in an optimisation of texts."
OPTIMIZER = "You are the optimizer in an optimisation of texts."

IMPROVED = "IMPROVED"

_TAGS = (
    "CONSTRAINT",
    "CONVERSATION",
    "DATA",
    "EXPLANATION",
    "FEEDBACK",
    "HISTORY",
    "IMPROVED",
    "INPUT",
    "MESSAGE",
    "NAME",
    "OUTPUT",
    "PREDICTION",
    "PURPOSE",
    "ROLE",
    "SCORE",
    "TARGET",
    "VARIABLE",
)
_TAG_LINE = re.compile(rf"^(?=</?(?:{'|'.join(_TAGS)})>$)", re.MULTILINE)

CRITIC_SYSTEM = f"""{CRITIC}

A program made a prediction, an evaluation function scored it. You see the prediction with its role, the
target where there is one, the purpose of the evaluation, the score and an explanation of it.

Say what is wrong with the prediction and what would have made it right, so that whoever produced it can
do better on this and on similar cases. Name the cause, not only the symptom. If the prediction is fully
right, say so in one sentence and say what must be kept. Do not write the corrected prediction as if it
were yours, and do not address the evaluation function.

Answer with the feedback alone, in plain text, in at most a few sentences."""

PROPAGATOR_SYSTEM = f"""{PROPAGATOR}

A language model was sent the conversation below and gave the output below. Feedback on that output came
back. The output was shaped by variables: texts that stand in the messages or were filled into them.

For each listed variable say how it should change so that the output would meet the feedback. Write for
someone who sees only that variable and your feedback. Stay general: the variable must also serve other
inputs, so name the missing or wrong rule and never just this case's answer. If a variable needs no change
for this case, say so and why.

Answer with one JSON object and nothing else. Its keys are exactly the names of the listed variables, each
value is a string with the feedback for that variable, for example:
{{"variable_1": "...", "variable_2": "..."}}"""

OPTIMIZER_SYSTEM = f"""{OPTIMIZER}

You see one variable: its role, its current data, and the feedback that reached it. There may be earlier
versions with the feedback they got, inputs that give context, and constraints.

Write better data for this variable. Act on all feedback, prefer rules that help in general over fixes for
single cases, keep what the feedback praises or does not mention, learn from the earlier versions, and obey
every constraint. Keep placeholders in braces such as {{name}} exactly as they are, and keep to the role.

Answer with the complete new data between <{IMPROVED}> and </{IMPROVED}>. It replaces the old data as it
stands, so write nothing between the tags that does not belong to it."""

OPTIMIZER_ANSWER_FORM = f"Answer with the complete new data between <{IMPROVED}> and </{IMPROVED}>."

# Protocol §I.1: the client's stand-ins for our own optimizer prompts, told by their data.
TGD_PLACEHOLDERS = (
    "Placeholder for Textual Gradient Descent optimizer system prompt",
    "Placeholder for Textual Gradient Descent optimizer user prompt",
)


class Part(NamedTuple):
    """A text with its role, and with the name that an answer calls it by."""

    role: str
    data: str
    name: str = ""


class Version(NamedTuple):
    """Earlier data of a parameter and the feedback it got."""

    data: str
    feedback: Sequence[str]


# --- blocks -------------------------------------------------------------------------------------


def leaf(tag: str, text: str) -> str:
    """A block that holds someone's text. A line of it that looks like one of our tags gets a blank before it."""
    return f"<{tag}>\n{_TAG_LINE.sub(' ', text)}\n</{tag}>"


def group(tag: str, *blocks: str) -> str:
    """A block of blocks."""
    return "\n".join((f"<{tag}>", *blocks, f"</{tag}>"))


def read_blocks(text: str, tag: str) -> list[str]:
    """The contents of every ``tag`` block in ``text``, in order; blocks inside other blocks too."""
    return re.findall(rf"^<{tag}>\n(.*?)\n</{tag}>$", text, re.MULTILINE | re.DOTALL)


# --- the three questions ------------------------------------------------------------------------


def critic_messages(
    prediction: Part, target: str | None, purpose: str, score: str, explanation: str, feedback: str = ""
) -> list[ChatMessage]:
    """Ask for feedback on one prediction. ``feedback`` is what came from behind the evaluator, ``""`` for nothing."""
    blocks = [group("PREDICTION", leaf("ROLE", prediction.role), leaf("DATA", prediction.data))]
    if target is not None:
        blocks.append(leaf("TARGET", target))
    blocks += [leaf("PURPOSE", purpose), leaf("SCORE", score), leaf("EXPLANATION", explanation)]
    if feedback:
        blocks.append(leaf("FEEDBACK", feedback))
    return _chat(CRITIC_SYSTEM, blocks)


def propagator_messages(
    conversation: Iterable[ChatMessage],
    inputs: Mapping[str, str],
    output: Part,
    feedback: str,
    variables: Iterable[Part],
) -> list[ChatMessage]:
    """Ask for feedback to ``variables``, which are told apart by their names."""
    messages = (group("MESSAGE", leaf("ROLE", m["role"]), leaf("DATA", m["content"])) for m in conversation)
    blocks = [
        group("CONVERSATION", *messages),
        *_inputs(inputs),
        group("OUTPUT", leaf("ROLE", output.role), leaf("DATA", output.data)),
        leaf("FEEDBACK", feedback),
    ]
    for part in variables:
        blocks.append(group("VARIABLE", leaf("NAME", part.name), leaf("ROLE", part.role), leaf("DATA", part.data)))
    return _chat(PROPAGATOR_SYSTEM, blocks)


def optimizer_messages(
    variable: Part,
    feedback: Sequence[str],
    history: Sequence[Version] = (),
    inputs: Mapping[str, str] | None = None,
    constraints: Sequence[str] = (),
    own_messages: Sequence[ChatMessage] = (),
) -> list[ChatMessage]:
    """Ask for better data for ``variable``.

    ``own_messages`` are the user's, with their placeholders filled; they take the place of our system
    message, and the blocks follow them in a user message that repeats the form of the answer.
    """
    blocks = [group("VARIABLE", leaf("ROLE", variable.role), leaf("DATA", variable.data))]
    blocks += [leaf("FEEDBACK", text) for text in feedback]
    for version in history:
        blocks.append(
            group("HISTORY", leaf("DATA", version.data), *(leaf("FEEDBACK", text) for text in version.feedback))
        )
    blocks += _inputs(inputs or {})
    blocks += [leaf("CONSTRAINT", text) for text in constraints]
    if own_messages:
        return [*own_messages, {"role": "user", "content": "\n".join([*blocks, "", OPTIMIZER_ANSWER_FORM])}]
    return _chat(OPTIMIZER_SYSTEM, blocks)


def correction(problem: str) -> str:
    """The user message after an answer of the wrong form."""
    return f"This answer cannot be used: {problem}. Answer again, in the required form and with nothing else."


# The feedback on a judge that is itself being optimised, where none came from behind it.
JUDGE_UNDER_TRAINING = (
    "The output is a judgement of the input named prediction, against the input named target where there is one. "
    "Do its score and its explanation fit? Say what in the instructions of the judge led it right or wrong."
)


def _inputs(inputs: Mapping[str, str]) -> list[str]:
    return [group("INPUT", leaf("NAME", name), leaf("DATA", data)) for name, data in inputs.items()]


def _chat(system: str, blocks: Iterable[str]) -> list[ChatMessage]:
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(blocks)}]
