"""A stand-in for a language model, so that the demo runs without one.

It is a small program, not a language model, and follows rules that it finds in text.  It works from the
messages of the call alone, like a model would: no dictionary of feelings, no knowledge of the mails, no
memory between two calls.  What it is asked to be, it reads from the first line of the system message:

- **classifier** (any other first line): looks for the words in the message that the prompt names as signs,
  and weighs them: a clear sign three times, a sign twice, a weak sign once. In doubt it gives the answer
  that the prompt names for that.
- **critic**: says whether the answer was right, and if not, which one would have been.
- **propagator**: passes that on to the prompt, with the words of the message. Also where the answer was
  right but won by little: so the prompt gets sure of it.
- **optimizer**: reads the signs in the current prompt and the feedback, or the samples, and writes the prompt with
  better signs: a word gets a stronger sign of the answer that it should speak for, or a weaker one of the answer
  that it should not (a perceptron that counts to three). A word that the feedback of one step names for
  different answers tells nothing, and is weakened. So each sample that came out right teaches, too, however sure
  it was: it shows which words stand in any message. The strongest words of each answer stay.

So all that it ever learns can be read in the prompt, in lines like
``- positive: clear signs "excellent", "thank"; signs "prompt"; weak signs "visitors"``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The first lines by which the backend's questions are told apart, and the tag of the optimizer's answer.
CRITIC = "You are the critic in an optimisation of texts."
PROPAGATOR = "You pass feedback back through a conversation in an optimisation of texts."
OPTIMIZER = "You are the optimizer in an optimisation of texts."
IMPROVED = "IMPROVED"

MOST_SIGNS = 20
"""For one answer: more words would be no prompt that a person writes or reads."""
NARROW = 8
"""A right answer that leads by less is not sure enough."""

STRENGTHS = ("weak signs", "signs", "clear signs")
"""What a word is called that weighs 1, 2 and 3."""
GUIDANCE = """\
Look in the message for the words below. Clear signs weigh most, weak signs least.
Give the answer that they speak for most. If two weigh the same, it is a case of doubt."""


class Sign(NamedTuple):
    """What a word speaks for, and how much it weighs: 1 to 3."""

    answer: str
    weight: int


Signs = dict[str, Sign]
"""By word."""


class Lesson(NamedTuple):
    """These words should speak more for the one answer, and less for the other ("": for no other)."""

    better: str
    worse: str
    words: Sequence[str]


_WORD = re.compile(r"[a-z][a-z']{2,}")
# Too common to tell anything in any kind of text.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "and are been but can could did does for from had has have her his i'm i've into it's its not our she some that"
        " the their them there these they this was were what when which who will with would you your"
    )
)
_LINE = re.compile(rf"^- (\w+): ((?:{'|'.join(STRENGTHS)}) .+)$", re.MULTILINE)
_STRENGTH = re.compile(rf"({'|'.join(STRENGTHS)}) ([^;\n]+)")
_QUOTED = re.compile(r'"([^"\n]+)"')
_DOUBT = re.compile(r"[Ww]hen in doubt, answer (\w+)")
_WRONG = re.compile(r'The answer "([^"\n]*)" is wrong, "([^"\n]*)" would have been right\.')
_RIGHT = re.compile(r'The answer "([^"\n]*)" is right\.')
_LESSON = re.compile(r'These words should speak more for "([^"\n]*)" and less for "([^"\n]*)": ([^.\n]*)\.')


def stand_in(messages: list[dict[str, str]], **completion_args: object) -> str:
    """Answer one chat; ``completion_args`` (temperature and the like) change nothing. Pure, thread-safe."""
    system, user = messages[0]["content"], messages[-1]["content"]
    first_line = system.partition("\n")[0]
    if first_line == CRITIC:
        return criticise(user)
    if first_line == PROPAGATOR:
        return propagate(user)
    if first_line == OPTIMIZER:
        return optimise(user)
    return classify(system, user)


# --- the four roles -----------------------------------------------------------------------------


def classify(prompt: str, message: str) -> str:
    """The answer with the most points by the rules in ``prompt``, which also names the one for doubt."""
    return _ranking(prompt, message)[0][0]


def criticise(request: str) -> str:
    """Feedback on one prediction, from comparing it with the target."""
    (prediction,) = read_blocks(read_blocks(request, "PREDICTION")[0], "DATA")
    targets = read_blocks(request, "TARGET")
    if not targets or prediction == targets[0]:
        return f'The answer "{prediction}" is right.'
    return f'The answer "{prediction}" is wrong, "{targets[0]}" would have been right.'


def propagate(request: str) -> str:
    """The feedback on one answer, for every variable that had a part in it: a JSON object by name."""
    feedback = read_blocks(request, "FEEDBACK")[-1]
    variables = read_blocks(request, "VARIABLE")
    data = {f"[{read_blocks(one, 'NAME')[0]}]": read_blocks(one, "DATA")[0] for one in variables}
    # A variable that is a whole message is shown there by its name.
    turns = [data.get(text, text) for turn in read_blocks(request, "MESSAGE") for text in read_blocks(turn, "DATA")]
    seen = sorted(words(turns[-1]))
    better, worse = None, None
    if found := _WRONG.search(feedback):
        worse, better = found.groups()
    elif found := _RIGHT.search(feedback):
        better, worse = found.group(1), _close_rival(turns[0], turns[-1])
    if worse and seen:
        feedback += f' These words should speak more for "{better}" and less for "{worse}": {", ".join(seen)}.'
    names = [read_blocks(variable, "NAME")[0] for variable in variables]
    return json.dumps(dict.fromkeys(names, feedback))


def optimise(request: str) -> str:
    """The current prompt with signs that heed the feedback of this step; earlier versions are not looked at."""
    now = request.partition("\n<HISTORY>\n")[0]
    (prompt,) = read_blocks(read_blocks(now, "VARIABLE")[0], "DATA")
    lessons = [
        Lesson(better, worse, seen.split(", "))
        for feedback in read_blocks(now, "FEEDBACK")
        for better, worse, seen in _LESSON.findall(feedback)
    ]
    lessons += _lessons_of_samples(prompt, request)
    return f"<{IMPROVED}>\n{write_signs(prompt, heeded(read_signs(prompt), lessons))}\n</{IMPROVED}>"


def heeded(signs: Signs, lessons: Iterable[Lesson]) -> Signs:
    """The signs after these lessons.

    A word that stands in lessons for different answers tells nothing, and weighs one less. For any other word the
    lessons are votes, what it weighed counts as votes for its answer, and the most votes win.
    """
    votes: dict[str, Counter[str]] = {}
    answers: dict[str, set[str]] = {}
    for lesson in lessons:
        for word in lesson.words:
            votes.setdefault(word, Counter()).update({lesson.better: +1, lesson.worse: -1})
            answers.setdefault(word, set()).add(lesson.better)
    new = dict(signs)
    for word, weights in votes.items():
        known = new.pop(word, None)
        if len(answers[word]) > 1:
            weights = Counter() if known is None else Counter({known.answer: known.weight - 1})
        elif known is not None:
            weights[known.answer] += known.weight
        former = None if known is None else known.answer  # as many votes for another: that one, it is newer
        answer = max(weights, key=lambda answer: (weights[answer], answer != former), default="")
        weight = weights[answer]
        if weight > 0:
            new[word] = Sign(answer, min(weight, len(STRENGTHS)))
    return new


def _lessons_of_samples(prompt: str, request: str) -> list[Lesson]:
    """What the samples in a question teach: those that came out wrong, and those that came out right."""
    lessons = []
    for sample in read_blocks(request, "SAMPLE"):
        output, targets = read_blocks(sample, "OUTPUT")[0], read_blocks(sample, "TARGET")
        if targets and output != targets[0]:
            lessons.append(Lesson(targets[0], output, sorted(words(_message_in(sample)))))
    for sample in read_blocks(request, "KEEP"):
        output, message = read_blocks(sample, "OUTPUT")[0], _message_in(sample)
        rival = next((answer for answer, _ in _ranking(prompt, message) if answer != output), "")
        lessons.append(Lesson(output, rival, sorted(words(message))))
    return lessons


def _message_in(sample: str) -> str:
    return "\n".join(text for one in read_blocks(sample, "INPUT") for text in read_blocks(one, "DATA"))


def _ranking(prompt: str, message: str) -> list[tuple[str, int]]:
    """The answers that the signs in ``prompt`` know, with their weight in ``message``, best first."""
    doubt = _DOUBT.search(prompt)
    fallback = doubt.group(1) if doubt else "unknown"
    signs = read_signs(prompt)
    weights = Counter({fallback: 0})
    for word in words(message) & signs.keys():
        weights[signs[word].answer] += signs[word].weight
    ranking = sorted(weights.items(), key=lambda item: (-item[1], item[0] != fallback, item[0]))
    if len(ranking) > 1 and ranking[0][1] == ranking[1][1]:
        ranking.sort(key=lambda item: item[0] != fallback)  # a draw is a case of doubt
    return ranking


def _close_rival(prompt: str, message: str) -> str | None:
    """The answer that came second, if it came close to the first."""
    (_, most), *others = _ranking(prompt, message)
    return others[0][0] if others and most - others[0][1] < NARROW else None


# --- reading and writing ------------------------------------------------------------------------


def words(text: str) -> set[str]:
    """The words of a text that may tell something: lower case, three letters or more, no stop words."""
    return set(_WORD.findall(text.lower().replace("’", "'"))) - _STOP_WORDS


def read_signs(prompt: str) -> Signs:
    """The signs that stand in a prompt."""
    return {
        word: Sign(answer, STRENGTHS.index(strength) + 1)
        for answer, line in _LINE.findall(prompt)
        for strength, listed in _STRENGTH.findall(line)
        for word in _QUOTED.findall(listed)
    }


def write_signs(prompt: str, signs: Signs) -> str:
    """The prompt with ``signs`` in place of those it has: of each answer the strongest, the strongest first."""
    instructions = prompt.partition(GUIDANCE)[0].rstrip()
    lines = []
    for answer in sorted({sign.answer for sign in signs.values()}):
        kept = sorted(
            (word for word, sign in signs.items() if sign.answer == answer),
            key=lambda word: (-signs[word].weight, word),
        )[:MOST_SIGNS]
        parts = []
        for weight, strength in reversed(list(enumerate(STRENGTHS, start=1))):
            listed = ", ".join(f'"{word}"' for word in kept if signs[word].weight == weight)
            if listed:
                parts.append(f"{strength} {listed}")
        lines.append(f"- {answer}: {'; '.join(parts)}")
    return "\n".join([instructions, "", GUIDANCE, *lines]) if lines else instructions


def read_blocks(text: str, tag: str) -> list[str]:
    """The contents of every ``tag`` block in ``text``, in order; a tag stands alone on its line, some with a number."""
    blocks = re.finditer(rf"^<({tag}(?:_\d+)?)>\n(.*?)\n</\1>$", text, re.MULTILINE | re.DOTALL)
    return [block[2] for block in blocks]
