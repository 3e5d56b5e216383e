"""What the backend asks language models, besides the forward chat itself.

Three kinds of question.  The **first line of the system message** tells them apart:

==================  ===========================================  =========================================
first line          asked                                        answer
==================  ===========================================  =========================================
``CRITIC``          once per sample, when an evaluator's score   the feedback, as plain text
                    or explanation goes backward
``PROPAGATOR``      when feedback goes back through a chat       one JSON object: the name of each listed
                    completion: once per sample, or once for     variable -> its feedback (a string)
                    all samples (``feedback="records"``)
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

    PROPAGATOR  <CONVERSATION> {<MESSAGE> <ROLE> <DATA> </MESSAGE>} </CONVERSATION>     as sent, placeholders filled;
                                                       [variable_1] stands in the place of the data of a variable
                {<INPUT> <NAME> <DATA> </INPUT>}       values of this sample
                <OUTPUT> <ROLE> <DATA> </OUTPUT>       the answer in this sample
                <FEEDBACK>                             on that output
                {<VARIABLE> <NAME> <ROLE> <DATA> </VARIABLE>}     NAME: variable_1, variable_2, ...

    PROPAGATOR  <CONVERSATION> {<MESSAGE> <ROLE> <DATA> </MESSAGE>} </CONVERSATION>     as templates, with the names of
                                                       the variables in the place of their data
    of samples  {<VARIABLE> <NAME> <ROLE> <DATA> </VARIABLE>}     those that all samples share
                {<SAMPLE> <NAME> {<INPUT> <NAME> <DATA> </INPUT>} <OUTPUT> <ROLE> <DATA> </OUTPUT> <FEEDBACK>
                    {<VARIABLE> <NAME> <ROLE> <DATA> </VARIABLE>} </SAMPLE>}

    OPTIMIZER   <VARIABLE> <ROLE> <DATA> <SCORE> </VARIABLE>      the current data; <SCORE>: where samples are known
                {<FEEDBACK>}                           one per gradient; of a batch: one <ITEM>..</ITEM> per sample
                {<HISTORY> <DATA> <SCORE> {<FEEDBACK>} </HISTORY>}    earlier versions, oldest first (momentum)
                {<REJECTED> <DATA> <SCORE> </REJECTED>}           what was tried last, and was no better
                {<INPUT> <NAME> <DATA> </INPUT>}
                {<CONSTRAINT>}
    of samples  {<CONVERSATION> {<MESSAGE> <ROLE> <DATA> </MESSAGE>} </CONVERSATION>    before its samples, as templates
                 {<PURPOSE>}                           of the evaluation
                 {<SAMPLE> {<INPUT> <NAME> <DATA> </INPUT>} <OUTPUT> <TARGET> <SCORE> <EXPLANATION> <FEEDBACK>
                    </SAMPLE>}}                        what came out wrong, or may be; what is not known is absent
                {<KEEP> {<INPUT> <NAME> <DATA> </INPUT>} <OUTPUT> </KEEP>}        what came out right, shortened

An answer of the wrong form is sent back with :func:`correction` as the next user message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import shorten
from .records import THE_VARIABLE, Record, summary

ChatMessage = dict[str, str]

CRITIC = "You are the critic in an optimisation of texts."
PROPAGATOR = "You pass feedback back through a conversation in an optimisation of texts."
OPTIMIZER = "You are the optimizer in an optimisation of texts."

IMPROVED = "IMPROVED"

# Characters of one question of an optimizer: some fifteen thousand tokens, which every model takes.
OPTIMIZER_CHARS = 48_000

# Characters of each text of a sample that came out right: first so many, and where there is no room for them so few.
# Far shorter ones are soon forgotten: on long mails that cost ten percent of accuracy.
_KEPT_CHARS = (4000, 200)

_TAGS_OF_SAMPLES = ["CONVERSATION", "MESSAGE", "PURPOSE", "SAMPLE", "OUTPUT", "TARGET", "SCORE", "KEEP"]
_TAGS_OF_SAMPLES += ["EXPLANATION", "INPUT", "NAME"]

TAGS = (
    "CONSTRAINT",
    "CONVERSATION",
    "DATA",
    "EXPLANATION",
    "FEEDBACK",
    "HISTORY",
    "IMPROVED",
    "INPUT",
    "KEEP",
    "MESSAGE",
    "NAME",
    "OUTPUT",
    "PREDICTION",
    "PURPOSE",
    "REJECTED",
    "ROLE",
    "SAMPLE",
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
back. The output was shaped by variables: texts that stand in the messages, where you see their names in
square brackets, or were filled into them.

For each listed variable say how it should change so that the output would meet the feedback. Write for
someone who sees only that variable and your feedback. Stay general: the variable must also serve other
inputs, so name the missing or wrong rule and never just this case's answer. If a variable needs no change
for this case, say so and why.

Answer with one JSON object and nothing else. Its keys are exactly the names of the listed variables, each
value is a string with the feedback for that variable, for example:
{{"variable_1": "...", "variable_2": "..."}}"""

PROPAGATOR_OF_SAMPLES_SYSTEM = f"""{PROPAGATOR}

A language model was sent the conversation below for several samples. In the conversation, names in braces
stand for what was filled in, and the names of variables for their data. For each sample you see what was
different in it, the output that the model gave, and the feedback that came back on that output.

The outputs were shaped by variables, which are listed: some belong to one sample, others to all of them. For
each listed variable say how it should change so that the outputs would meet the feedback. Write for someone
who sees only that variable and your feedback. Of a variable that belongs to all samples name the missing or
wrong rules, and never just one sample's answer. If a variable needs no change, say so and why.

Answer with one JSON object and nothing else. Its keys are exactly the names of the listed variables, each
value is a string with the feedback for that variable, for example:
{{"variable_1": "...", "variable_2_of_sample_0": "..."}}"""

OPTIMIZER_SYSTEM = f"""{OPTIMIZER}

You see one variable: its role, its current data, and the feedback that reached it. There may be earlier
versions with the feedback they got, inputs that give context, and constraints.

Write better data for this variable. Act on all feedback, prefer rules that help in general over fixes for
single cases, keep what the feedback praises or does not mention, learn from the earlier versions, and obey
every constraint. Keep placeholders in braces such as {{name}} exactly as they are, and keep to the role.

Answer with the complete new data between <{IMPROVED}> and </{IMPROVED}>. It replaces the old data as it
stands, so write nothing between the tags that does not belong to it."""

OPTIMIZER_OF_SAMPLES_SYSTEM = f"""{OPTIMIZER}

You see one variable: its role and its current data. You see how it did on samples: the conversation in which
it stood, with {THE_VARIABLE} in its place and names in braces for what was filled in; then samples that came
out wrong or may be better, with their inputs, the output, the target and score where there are any, and what
was said of it; and, shortened, samples to keep, which came out right. There may be feedback in words, earlier
versions with their scores, a version that was tried and rejected, inputs that give context, and constraints.

Write better data for this variable. Find out why the wrong samples came out wrong, and prefer rules that help in
general over fixes for single samples; do not copy samples into the data. The samples to keep must stay right.
Learn from the earlier versions and do not offer a rejected one again. Obey every constraint. Keep placeholders
in braces such as {{name}} exactly as they are, and keep to the role.

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
    """Earlier data of a parameter, the feedback that it got, and how well it did ("": not known)."""

    data: str
    feedback: Sequence[str]
    score: str = ""


class Sample(NamedTuple):
    """One sample in a question about several of them.

    ``variables`` are those with data of their own in it.
    """

    name: str
    inputs: Mapping[str, str]
    output: Part
    feedback: str
    variables: Sequence[Part]

    @property
    def texts(self) -> list[str]:
        """All texts in it."""
        of_inputs = [text for item in self.inputs.items() for text in item]
        return [*of_inputs, *(text for part in (self.output, *self.variables) for text in part), self.feedback]


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

    def conversation(self, messages: Iterable[tuple[str, str]]) -> str:
        """A block for a conversation, from the role and the text of each message."""
        turns = (self.group("MESSAGE", self.leaf("ROLE", role), self.leaf("DATA", text)) for role, text in messages)
        return self.group("CONVERSATION", *turns)

    def variable(self, part: Part) -> str:
        """A block for a variable that an answer calls by its name."""
        names = (self.leaf("NAME", part.name), self.leaf("ROLE", part.role), self.leaf("DATA", part.data))
        return self.group("VARIABLE", *names)

    def version(self, tag: str, version: Version) -> str:
        """A block for other data than the current."""
        score = [self.leaf("SCORE", version.score)] if version.score else []
        feedback = (self.leaf("FEEDBACK", text) for text in version.feedback)
        return self.group(tag, self.leaf("DATA", version.data), *score, *feedback)

    def sample(self, record: Record) -> str:
        """A block for a sample, in full."""
        blocks = [*self.inputs(record.inputs), self.leaf("OUTPUT", record.output)]
        if record.target is not None:
            blocks.append(self.leaf("TARGET", record.target))
        if record.score is not None:
            blocks.append(self.leaf("SCORE", str(record.score)))
        blocks += [self.leaf("EXPLANATION", record.explanation)] if record.explanation else []
        blocks += [self.leaf("FEEDBACK", record.feedback)] if record.feedback else []
        return self.group("SAMPLE", *blocks)

    def to_keep(self, record: Record, most_chars: int) -> str:
        """A block for a sample that came out right, each text of it shortened to so many characters."""
        inputs = {name: shorten(text, most_chars) for name, text in record.inputs.items()}
        return self.group("KEEP", *self.inputs(inputs), self.leaf("OUTPUT", shorten(record.output, most_chars)))

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
    blocks = [
        tags.conversation((message["role"], message["content"]) for message in conversation),
        *tags.inputs(inputs),
        tags.group("OUTPUT", tags.leaf("ROLE", output.role), tags.leaf("DATA", output.data)),
        tags.leaf("FEEDBACK", feedback),
    ]
    blocks += map(tags.variable, variables)
    return _chat(PROPAGATOR_SYSTEM, blocks)


def propagator_of_samples_messages(
    conversation: Iterable[tuple[str, str]], variables: Sequence[Part], samples: Sequence[Sample]
) -> list[ChatMessage]:
    """Ask for feedback to ``variables``, which all samples share, and to those of each sample.

    ``conversation`` is the role and the template of each message.
    """
    conversation = list(conversation)
    tags = Tags(
        [
            *(text for message in conversation for text in message),
            *(text for part in variables for text in part),
            *(text for one in samples for text in one.texts),
        ]
    )
    blocks = [tags.conversation(conversation), *map(tags.variable, variables)]
    for one in samples:
        blocks.append(
            tags.group(
                "SAMPLE",
                tags.leaf("NAME", one.name),
                *tags.inputs(one.inputs),
                tags.group("OUTPUT", tags.leaf("ROLE", one.output.role), tags.leaf("DATA", one.output.data)),
                tags.leaf("FEEDBACK", one.feedback),
                *map(tags.variable, one.variables),
            )
        )
    return _chat(PROPAGATOR_OF_SAMPLES_SYSTEM, blocks)


class OptimizerQuestion(NamedTuple):
    """A question for better data.

    Attributes:
        answer_tag: of the block in the answer that holds the new data.
        own_tags: the question's other tags.
        left_out: how many samples are not shown, for lack of room; those to keep are the first to go.
    """

    messages: list[ChatMessage]
    answer_tag: str
    own_tags: Sequence[str]
    left_out: int = 0


def optimizer_question(
    variable: Part,
    feedback: Sequence[str],
    history: Sequence[Version] = (),
    inputs: Mapping[str, str] | None = None,
    constraints: Sequence[str] = (),
    own_messages: Sequence[ChatMessage] = (),
    records: Sequence[Record] = (),
    rejected: Version | None = None,
    most_chars: int = OPTIMIZER_CHARS,
) -> OptimizerQuestion:
    """Ask for better data for ``variable``, from feedback in words and from what is known of samples.

    Samples are left out where the question would have more than ``most_chars`` characters, but for the first one.
    ``own_messages`` are the user's, with their placeholders filled; they take the place of our system
    message, and the blocks follow them in a user message that repeats the form of the answer.
    """
    inputs = inputs or {}
    versions = [*history, *([rejected] if rejected else [])]
    tags = Tags(
        [
            *(variable.role, variable.data),
            *feedback,
            *(text for version in versions for text in (version.data, *version.feedback)),
            *(text for item in inputs.items() for text in item),
            *constraints,
            *(message["content"] for message in own_messages),
            *(text for record in records for text in _texts_of(record)),
        ]
    )
    known = summary(records)
    score = [tags.leaf("SCORE", known)] if known else []
    blocks = [tags.group("VARIABLE", tags.leaf("ROLE", variable.role), tags.leaf("DATA", variable.data), *score)]
    blocks += [tags.leaf("FEEDBACK", text) for text in feedback]
    blocks += [tags.version("HISTORY", version) for version in history]
    blocks += [tags.version("REJECTED", rejected)] if rejected else []
    blocks += tags.inputs(inputs)
    blocks += [tags.leaf("CONSTRAINT", text) for text in constraints]
    system = OPTIMIZER_OF_SAMPLES_SYSTEM if records else OPTIMIZER_SYSTEM
    around = sum(map(len, blocks)) + sum(len(message["content"]) for message in own_messages) + len(system)
    shown, left_out = _sample_blocks(tags, records, most_chars - around)
    blocks += shown
    if own_messages:
        form = tags.renamed(OPTIMIZER_ANSWER_FORM)
        messages = [*own_messages, {"role": "user", "content": "\n".join([*blocks, "", form])}]
    else:
        messages = _chat(tags.renamed(system), blocks)
    used = ["VARIABLE", "ROLE", "DATA", "FEEDBACK"]
    used += ["HISTORY"] * bool(history) + ["REJECTED"] * (rejected is not None)
    used += ["INPUT", "NAME"] * bool(inputs) + ["CONSTRAINT"] * bool(constraints)
    used += _TAGS_OF_SAMPLES * bool(records)
    return OptimizerQuestion(messages, tags[IMPROVED], [tags[name] for name in used], left_out)


def _sample_blocks(tags: Tags, records: Sequence[Record], room: int) -> tuple[list[str], int]:
    """Blocks for samples that have this many characters at most, and the number of samples that had no room."""
    to_keep = [record for record in records if record.is_right and not record.feedback]
    by_conversation: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        if not record.is_right or record.feedback:
            by_conversation.setdefault(record.conversation, []).append(record)
    blocks: list[str] = []
    left_out = 0

    def add(*more: str, always: bool = False) -> bool:
        nonlocal room
        size = sum(len(block) + 1 for block in more)
        if size > room and not always:
            return False
        room -= size
        blocks.extend(more)
        return True

    for conversation, wrong in by_conversation.items():
        heads = [tags.conversation(conversation)] if conversation else []
        heads += [tags.leaf("PURPOSE", text) for text in dict.fromkeys(record.purpose for record in wrong) if text]
        first, *others = wrong
        if not add(*heads, tags.sample(first), always=not blocks):
            left_out += len(wrong)
            continue
        left_out += sum(not add(tags.sample(record)) for record in others)
    for record in to_keep:
        left_out += not any(add(tags.to_keep(record, most_chars)) for most_chars in _KEPT_CHARS)
    if left_out:
        blocks.append(f"({left_out} more samples are not shown, for lack of room.)")
    return blocks, left_out


def _texts_of(record: Record) -> list[str]:
    of_messages = [text for message in record.conversation for text in message]
    of_inputs = [text for item in record.inputs.items() for text in item]
    more = (record.output, record.target or "", record.purpose, record.explanation, record.feedback)
    return [*of_messages, *of_inputs, *more]


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
