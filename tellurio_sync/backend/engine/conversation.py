"""Messages made of Variables, with placeholders that inputs fill; for one sample or a batch.

A list as data, or as an input, makes a batch: item i belongs to sample i, scalars belong to all samples.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..asking import ask_for
from ..data import Data, check_chars, sample, text
from ..objects import PARAMETER
from ..prompts import ChatMessage, Part, Sample, propagator_messages, propagator_of_samples_messages
from ..questions import Purpose, Question
from ..reading.answers import feedback_schema, read_feedback
from ..records import BATCH_CRITIC, THE_VARIABLE, Recorded, at_output, of_batch, records_of, told
from ..refused import Refused
from ..wire import Operand, plain
from .op import Host
from .samples import by_sample, feedback_left_out, gather

# Characters of samples in one question about all of them: some ten thousand tokens, which every model takes.
PROPAGATED_CHARS = 30_000


class _Place(NamedTuple):
    """The place of an operand; ``only`` is the one sample that uses it, None if all do."""

    operand: Operand
    only: int | None


class Conversation:
    """The messages and inputs of one function call.

    Attributes:
        message_operands: the Variables in messages, in order.
        operands: the same, then those in inputs.
        size: samples in the batch, None for a single sample.
    """

    def __init__(self, messages: Any, inputs: Any, beside: Sequence[Data] = ()) -> None:
        """Check ``messages`` and ``inputs`` (protocol §G), which are decoded; ``beside`` is data of the same batch.

        Raises:
            Refused: they have another form, or lists of different lengths.
        """
        self._turns = _turns(messages)
        self._inputs = _checked_inputs(inputs)
        self._places = [_Place(part, None) for _, parts in self._turns for part in parts if isinstance(part, Operand)]
        self.message_operands: list[Operand] = [place.operand for place in self._places]
        for value in self._inputs.values():
            if isinstance(value, Operand):
                self._places.append(_Place(value, None))
            elif isinstance(value, list):
                self._places += [_Place(item, i) for i, item in enumerate(value) if isinstance(item, Operand)]
        self.operands: list[Operand] = [place.operand for place in self._places]
        lists = [place.operand.data for place in self._places if place.only is None]
        self.size: int | None = batch_size([*lists, *self._inputs.values(), *beside])

    @property
    def samples(self) -> range:
        """The indices of all samples; a single sample has index 0."""
        return range(1 if self.size is None else self.size)

    def is_gap(self, index: int) -> bool:
        """Whether a sample of this batch is missing: null in a Variable that is a batch itself, or belongs to it."""
        return any(
            (place.only is None and isinstance(place.operand.data, list) and place.operand.data[index] is None)
            or (place.only == index and place.operand.data is None)
            for place in self._places
        )

    def inputs(self, index: int) -> dict[str, str]:
        """The inputs of one sample, as texts."""
        return {
            name: text(plain(value[index] if isinstance(value, list) else _data(value, index)))
            for name, value in self._inputs.items()
        }

    def subject(self, index: int) -> list[Any]:
        """What one sample is, as JSON: its messages and inputs, in which each parameter is null."""

        def of(part: Any) -> Data:
            is_parameter = isinstance(part, Operand) and part.variable.obj_type == PARAMETER
            return None if is_parameter else _data(part, index)

        turns = [[role, [of(part) for part in parts]] for role, parts in self._turns]
        inputs = {name: of(value[index] if isinstance(value, list) else value) for name, value in self._inputs.items()}
        return [turns, inputs]

    def messages(
        self, index: int, extra: Mapping[str, str] | None = None, marks: Mapping[int, str] | None = None
    ) -> list[ChatMessage]:
        """The messages of one sample with their placeholders filled from its inputs and ``extra``.

        ``marks``, by the id of a Variable, stand in the place of its data.

        ``{name}`` is replaced if there is an input of this name; other braces, and doubled ones, stay.
        Each part of a message begins on a new line.
        """
        values, marks = {**self.inputs(index), **(extra or {})}, marks or {}

        def shown(part: Any) -> str:
            return marks[id(part.variable)] if _is_among(part, marks) else text(_data(part, index))

        return [{"role": role, "content": fill("\n".join(map(shown, parts)), values)} for role, parts in self._turns]

    async def propagate(
        self,
        host: Host,
        wanted: Sequence[bool],
        answers: Sequence[str | None],
        role: str,
        feedback: Sequence[str],
        extra: Mapping[int, dict[str, str]] | None = None,
    ) -> list[Data]:
        """Feedback for the operands, from feedback on the answers.

        One question to the backward model per sample that has an answer, and whose feedback is not empty; the samples
        at once.  Where a question fails the sample is left out, unless too many do (``Host.max_failed``).

        Args:
            host: for questions.
            wanted: per operand, whether its feedback will be used.
            answers: one per sample, None for a gap.
            role: of the answers.
            feedback: one per sample.
            extra: per sample, what filled further placeholders.

        Returns:
            Per operand: None where not wanted, or where the same Variable stood before; else one text,
            with an ``<ITEM>`` per sample of a batch, or a list of texts for a Variable with a list as data.

        Raises:
            Refused: no model for backward passes, or no usable answer to too many of the questions.
        """
        asked, position = self._wanted(wanted)

        def seen_by(index: int) -> list[Operand]:
            return [operand for operand, places in asked.items() if any(p.only in (None, index) for p in places)]

        async def one(index: int) -> dict[Operand, str]:
            seen, own = seen_by(index), answers[index]
            assert own is not None
            names = {f"variable_{i}": operand for i, operand in enumerate(seen, start=1)}
            more = (extra or {}).get(index, {})
            marks = {id(operand.variable): f"[{name}]" for name, operand in names.items()}
            messages = propagator_messages(
                self.messages(index, more, marks),
                {**self.inputs(index), **more},
                Part(role, own),
                feedback[index],
                [Part(operand.role, text(sample(operand.data, index)), name) for name, operand in names.items()],
            )
            sample_index = None if self.size is None else index
            question = Question("propagator", messages, sample=sample_index, schema=feedback_schema(list(names)))
            answer = await ask_for(host.ask, question, read_feedback(list(names)))
            return {operand: answer[name] for name, operand in names.items()}

        samples = [i for i in self.samples if feedback[i] and answers[i] is not None and seen_by(i)]
        if self.size is None:
            found = [await one(i) for i in samples] or [{}]
        else:
            gathered = await gather(one, samples)
            host.left_out += feedback_left_out(gathered, self.size, host.max_failed)
            found = [answer or {} for answer in gathered.listed(self.size)]
        result: list[Data] = [None] * len(self._places)
        for operand, places in asked.items():
            result[position[operand]] = self._combined(operand, places, [one.get(operand, "") for one in found])
        return result

    def _wanted(self, wanted: Sequence[bool]) -> tuple[dict[Operand, list[_Place]], dict[Operand, int]]:
        """The places of each Variable that gets feedback, and where its feedback belongs: to its first place."""
        places: dict[Operand, list[_Place]] = {}
        position: dict[Operand, int] = {}
        first: dict[int, Operand] = {}
        for i, place in enumerate(self._places):
            if wanted[i]:
                operand = first.setdefault(id(place.operand.variable), place.operand)
                position.setdefault(operand, i)
                places.setdefault(operand, []).append(place)
        return places, position

    # --- records (protocol §K.5) ----------------------------------------------------------------

    async def pass_records(
        self, host: Host, wanted: Sequence[bool], answers: Sequence[str | None], role: str, feedback: Sequence[str]
    ) -> list[Data]:
        """As :meth:`propagate`, where records are wanted.

        A leaf stands whole in the messages, so it gets what is known of the samples as it is, and nothing is asked,
        unless a critic is wanted, or nothing is known but words, which may be about something else. For what other
        functions have made, a language model says what should be different: one question for all samples, or more of
        them where one would hold more than :data:`PROPAGATED_CHARS` of samples.
        """
        places_of, position = self._wanted(wanted)
        is_asked = host.feedback == BATCH_CRITIC or not any(map(records_of, feedback))
        made = [operand for operand in places_of if is_asked or operand.grad_fn is not None]
        passed = await self._ask_about(host, made, places_of, answers, role, feedback) if made else {}
        result: list[Data] = [None] * len(self._places)
        for operand, places in places_of.items():
            if operand in passed:
                result[position[operand]] = passed[operand]
            else:
                texts = self._recorded(operand, answers, feedback)
                own = {place.only for place in places}
                texts = texts if None in own else [one if i in own else "" for i, one in enumerate(texts)]
                result[position[operand]] = self._combined(operand, places, texts)
        return result

    def _recorded(self, operand: Operand, answers: Sequence[str | None], feedback: Sequence[str]) -> list[str]:
        """What is known of each sample, for a Variable that stands in it."""
        conversation = self._around({id(operand.variable): THE_VARIABLE})
        texts = []
        for index, (answer, said) in enumerate(zip(answers, feedback)):
            if answer is None or not (said or records_of(said)):
                texts.append("")
                continue
            seen = self._seen(index, {id(operand.variable)})
            record = replace(at_output(said, answer), inputs=seen, conversation=conversation)
            texts.append(Recorded(record.text if said else "", [record]))
        return texts

    def _around(self, names: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
        """The messages as templates; ``names``, by the id of a Variable, stand in the place of its data."""
        own = {key: names[id(value.variable)] for key, value in self._inputs.items() if _is_among(value, names)}

        def shown(part: Any) -> str:
            if _is_among(part, names):
                return names[id(part.variable)]
            if isinstance(part, Operand) and isinstance(part.data, list):
                return f"{{{_name(part)}}}"
            return fill(text(plain(part)), own)

        return tuple((role, "\n".join(map(shown, parts))) for role, parts in self._turns)

    def _seen(self, index: int, apart: Container[int]) -> dict[str, str]:
        """What was different in one sample, the Variables with these ids apart."""
        inputs = self.inputs(index)
        seen = {name: inputs[name] for name, value in self._inputs.items() if not _is_among(value, apart)}
        for _, parts in self._turns:
            for part in parts:
                if isinstance(part, Operand) and isinstance(part.data, list) and not _is_among(part, apart):
                    seen[_name(part)] = text(_data(part, index))
        return seen

    async def _ask_about(
        self,
        host: Host,
        made: Sequence[Operand],
        places_of: Mapping[Operand, list[_Place]],
        answers: Sequence[str | None],
        role: str,
        feedback: Sequence[str],
    ) -> dict[Operand, Data]:
        """What a language model says of these, where samples are not right."""
        purpose: Purpose = "critic" if all(operand.grad_fn is None for operand in made) else "propagator"
        names = {id(operand.variable): f"variable_{i}" for i, operand in enumerate(made, 1)}
        shared = [one for one in made if not isinstance(one.data, list) and None in {p.only for p in places_of[one]}]
        of_samples = [one for one in made if one not in shared]

        def name(operand: Operand, index: int) -> str:
            return f"{names[id(operand.variable)]}_of_sample_{index}"

        def own(index: int) -> list[Operand]:
            return [one for one in of_samples if {p.only for p in places_of[one]} & {None, index}]

        samples: dict[int, Sample] = {}
        for index, answer in enumerate(answers):
            if answer is None or not feedback[index] or not (shared or own(index)):
                continue
            parts = [Part(one.role, text(sample(one.data, index)), name(one, index)) for one in own(index)]
            seen = self._seen(index, names)
            samples[index] = Sample(f"sample_{index}", seen, Part(role, answer), feedback[index], parts)
        groups = _groups(samples, PROPAGATED_CHARS)
        conversation = self._around(names)

        async def ask(number: int) -> dict[str, str]:
            group = groups[number]
            wanted = [names[id(one.variable)] for one in shared]
            messages = propagator_of_samples_messages(
                conversation,
                [Part(one.role, text(one.data), names[id(one.variable)]) for one in shared],
                [samples[index] for index in group],
            )
            wanted += [name(one, index) for index in group for one in own(index)]
            question = Question(purpose, messages, schema=feedback_schema(wanted))
            return await ask_for(host.ask, question, read_feedback(wanted))

        if self.size is None:
            said = [await ask(number) for number in range(len(groups))]
        else:
            gathered = await gather(ask, range(len(groups)))
            left = by_sample(gathered, groups)
            host.left_out += feedback_left_out(left, self.size, host.max_failed)
            said = list(gathered.results.values())
        result: dict[Operand, Data] = {}
        for operand in made:
            if operand in shared:
                words = "\n".join(filter(None, (one[names[id(operand.variable)]] for one in said)))
                records = records_of(self._recorded(operand, answers, feedback))
                result[operand] = Recorded(words, records, besides=words)
                continue
            all_said = {key: value for one in said for key, value in one.items()}
            texts = [
                told(feedback[index], text(sample(operand.data, index)), all_said.get(name(operand, index), ""))
                for index in self.samples
            ]
            result[operand] = self._combined(operand, places_of[operand], texts)
        return result

    def _combined(self, operand: Operand, places: list[_Place], texts: list[str]) -> Data:
        if isinstance(operand.data, list) and any(place.only is None for place in places):
            return texts
        if self.size is None:
            return texts[0]
        if all(place.only is not None for place in places):
            own = sorted({place.only for place in places if place.only is not None})
            return texts[own[0]] if len(own) == 1 else of_batch([texts[i] for i in own])
        return of_batch(texts)


def batch_size(values: Iterable[Any]) -> int | None:
    """The common length of the lists among ``values``, None if there is none.

    Raises:
        Refused: the lists differ in length, or are empty.
    """
    lengths = {len(value) for value in values if isinstance(value, list)}
    if len(lengths) > 1:
        raise Refused(f"The lists of a batch must have the same length, not {sorted(lengths)}.")
    if 0 in lengths:
        raise Refused("The batch is empty.")
    return lengths.pop() if lengths else None


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{name}`` of ``values`` replaced; ``{{name}}`` stays as it is.

    This is done in one pass: the inserted texts are not searched again.

    Raises:
        Refused: the result is too long.
    """
    if not values:
        return template
    names = "|".join(re.escape(name) for name in values)
    pattern = rf"\{{\{{(?:{names})\}}\}}|\{{(?P<name>{names})\}}"
    count = len(template)

    def value(found: re.Match[str]) -> str:
        nonlocal count
        name = found["name"]
        if name is None:
            return found[0]
        count += len(values[name])
        check_chars(count)
        return values[name]

    return re.sub(pattern, value, template)


def _is_among(value: Any, ids: Container[int]) -> bool:
    return isinstance(value, Operand) and id(value.variable) in ids


def _name(operand: Operand) -> str:
    return operand.role or "text"


def _groups(samples: Mapping[int, Sample], most_chars: int) -> list[list[int]]:
    """The indices of samples, in groups that hold at most so many characters; a longer one is a group of its own."""
    groups: list[list[int]] = []
    left = 0
    for index, one in samples.items():
        size = sum(map(len, one.texts))
        if not groups or size > left:
            groups.append([])
            left = most_chars
        groups[-1].append(index)
        left -= size
    return groups


def _data(part: Any, index: int) -> Data:
    # Only the data of a Variable is a batch; a list that stands for itself was handled by the caller.
    return sample(part.data, index) if isinstance(part, Operand) else part


def _turns(messages: Any) -> list[tuple[str, list[Any]]]:
    if not (isinstance(messages, list) and messages):
        raise Refused("`messages` must be a list of at least one message.")
    turns: list[tuple[str, list[Any]]] = []
    for message in messages:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message):
            raise Refused("Each message must be an object with `role` and `content`.")
        content = message["content"]
        parts = content if isinstance(content, list) else [content]
        if not all(isinstance(part, (Operand, str)) for part in parts):
            raise Refused("The content of a message must be a list of Variables.")
        turns.append((message["role"], parts))
    return turns


def _checked_inputs(inputs: Any) -> dict[str, Any]:
    if inputs is None:
        return {}
    if not isinstance(inputs, dict):
        raise Refused("`inputs` must be an object.")
    for name, value in inputs.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (dict, list)) or callable(item):
                raise Refused(f"The input {name!r} must be a text, a Variable, or a list of these.")
            if isinstance(value, list) and isinstance(item, Operand) and isinstance(item.data, list):
                raise Refused(f"The input {name!r} is a list of Variables, whose data must then not be lists.")
    return inputs
