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

The user message is made of blocks.  A tag stands alone on its line.  The texts in the blocks stand there to the letter;
where a line of one of them is one of our tags, that tag gets a number in this question (``<DATA_2>``), so that no line
of any text is a tag of ours (:class:`Tags`)::

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

TAGS = (
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


class Tags:
    """The tags of one question, none of which is a line of any of its texts; and blocks made with them."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Choose tags for a question that holds these texts."""
        self._names = {tag: _free(tag, texts) for texts in [list(texts)] for tag in TAGS}

    def __getitem__(self, tag: str) -> str:
        """What is written for ``tag``: itself, or with a number."""
        return self._names[tag]

    def leaf(self, tag: str, text: str) -> str:
        """A block that holds someone's text, to the letter."""
        return f"<{self[tag]}>\n{text}\n</{self[tag]}>"

    def group(self, tag: str, *blocks: str) -> str:
        """A block of blocks."""
        return "\n".join((f"<{self[tag]}>", *blocks, f"</{self[tag]}>"))

    def inputs(self, inputs: Mapping[str, str]) -> list[str]:
        """A block for each input."""
        return [self.group("INPUT", self.leaf("NAME", name), self.leaf("DATA", data)) for name, data in inputs.items()]

    def renamed(self, text: str) -> str:
        """A text of ours, about the tag of the answer, with the tag as it is in this question."""
        name = self[IMPROVED]
        return text.replace(f"<{IMPROVED}>", f"<{name}>").replace(f"</{IMPROVED}>", f"</{name}>")


def _free(tag: str, texts: list[str]) -> str:
    name, number = tag, 1
    while any(_holds(text, name, anywhere=tag == IMPROVED) for text in texts):
        number += 1
        name = f"{tag}_{number}"
    return name


def _holds(text: str, name: str, *, anywhere: bool) -> bool:
    if anywhere:  # The tag of an answer is read wherever it stands, whatever its capitals.
        text = text.upper()
        return f"<{name}>" in text or f"</{name}>" in text
    if f"<{name}>" not in text and f"</{name}>" not in text:
        return False
    lines = f"\n{text}\n"
    return f"\n<{name}>\n" in lines or f"\n</{name}>\n" in lines


def read_blocks(text: str, tag: str) -> list[str]:
    """The contents of every ``tag`` block in ``text``, in order; blocks in blocks, and tags with a number, too."""
    blocks = re.finditer(rf"^<({tag}(?:_\d+)?)>\n(.*?)\n</\1>$", text, re.MULTILINE | re.DOTALL)
    return [block[2] for block in blocks]


# --- the three questions ------------------------------------------------------------------------


def critic_messages(
    prediction: Part, target: str | None, purpose: str, score: str, explanation: str, feedback: str = ""
) -> list[ChatMessage]:
    """Ask for feedback on one prediction. ``feedback`` is what came from behind the evaluator, ``""`` for nothing."""
    tags = Tags([prediction.role, prediction.data, target or "", purpose, score, explanation, feedback])
    blocks = [tags.group("PREDICTION", tags.leaf("ROLE", prediction.role), tags.leaf("DATA", prediction.data))]
    if target is not None:
        blocks.append(tags.leaf("TARGET", target))
    blocks += [tags.leaf("PURPOSE", purpose), tags.leaf("SCORE", score), tags.leaf("EXPLANATION", explanation)]
    if feedback:
        blocks.append(tags.leaf("FEEDBACK", feedback))
    return _chat(CRITIC_SYSTEM, blocks)


def propagator_messages(
    conversation: Iterable[ChatMessage],
    inputs: Mapping[str, str],
    output: Part,
    feedback: str,
    variables: Iterable[Part],
) -> list[ChatMessage]:
    """Ask for feedback to ``variables``, which are told apart by their names."""
    conversation, variables = list(conversation), list(variables)
    tags = Tags(
        [
            *(text for message in conversation for text in (message["role"], message["content"])),
            *(text for item in inputs.items() for text in item),
            *(text for part in [output, *variables] for text in part),
            feedback,
        ]
    )
    messages = [
        tags.group("MESSAGE", tags.leaf("ROLE", m["role"]), tags.leaf("DATA", m["content"])) for m in conversation
    ]
    blocks = [
        tags.group("CONVERSATION", *messages),
        *tags.inputs(inputs),
        tags.group("OUTPUT", tags.leaf("ROLE", output.role), tags.leaf("DATA", output.data)),
        tags.leaf("FEEDBACK", feedback),
    ]
    for part in variables:
        names = (tags.leaf("NAME", part.name), tags.leaf("ROLE", part.role), tags.leaf("DATA", part.data))
        blocks.append(tags.group("VARIABLE", *names))
    return _chat(PROPAGATOR_SYSTEM, blocks)


class OptimizerQuestion(NamedTuple):
    """A question for better data.

    Attributes:
        answer_tag: of the block in the answer that holds the new data.
        own_tags: the question's other tags.
    """

    messages: list[ChatMessage]
    answer_tag: str
    own_tags: Sequence[str]


def optimizer_question(
    variable: Part,
    feedback: Sequence[str],
    history: Sequence[Version] = (),
    inputs: Mapping[str, str] | None = None,
    constraints: Sequence[str] = (),
    own_messages: Sequence[ChatMessage] = (),
) -> OptimizerQuestion:
    """Ask for better data for ``variable``.

    ``own_messages`` are the user's, with their placeholders filled; they take the place of our system
    message, and the blocks follow them in a user message that repeats the form of the answer.
    """
    inputs = inputs or {}
    tags = Tags(
        [
            *(variable.role, variable.data),
            *feedback,
            *(text for version in history for text in (version.data, *version.feedback)),
            *(text for item in inputs.items() for text in item),
            *constraints,
            *(message["content"] for message in own_messages),
        ]
    )
    blocks = [tags.group("VARIABLE", tags.leaf("ROLE", variable.role), tags.leaf("DATA", variable.data))]
    blocks += [tags.leaf("FEEDBACK", text) for text in feedback]
    for version in history:
        of_version = (tags.leaf("DATA", version.data), *(tags.leaf("FEEDBACK", text) for text in version.feedback))
        blocks.append(tags.group("HISTORY", *of_version))
    blocks += tags.inputs(inputs)
    blocks += [tags.leaf("CONSTRAINT", text) for text in constraints]
    if own_messages:
        form = tags.renamed(OPTIMIZER_ANSWER_FORM)
        messages = [*own_messages, {"role": "user", "content": "\n".join([*blocks, "", form])}]
    else:
        messages = _chat(tags.renamed(OPTIMIZER_SYSTEM), blocks)
    used = ["VARIABLE", "ROLE", "DATA", "FEEDBACK"]
    used += ["HISTORY"] * bool(history) + ["INPUT", "NAME"] * bool(inputs) + ["CONSTRAINT"] * bool(constraints)
    return OptimizerQuestion(messages, tags[IMPROVED], [tags[name] for name in used])


def correction(problem: str) -> str:
    """The user message after an answer of the wrong form."""
    return f"This answer cannot be used: {problem}. Answer again, in the required form and with nothing else."


# The feedback on a judge that is itself being optimised, where none came from behind it.
JUDGE_UNDER_TRAINING = (
    "The output is a judgement of the input named prediction, against the input named target where there is one. "
    "Do its score and its explanation fit? Say what in the instructions of the judge led it right or wrong."
)


def _chat(system: str, blocks: Iterable[str]) -> list[ChatMessage]:
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(blocks)}]
