"""A stand-in for a language model, so that the demo runs without one.

It is a small program, not a language model, and follows rules that it finds in text.  It works from the
messages of the call alone, like a model would: no dictionary of feelings, no knowledge of the mails, no
memory between two calls.  What it is asked to be, it reads from the first line of the system message:

- **classifier** (any other first line): adds up the points that the rules in the prompt give to the words
  of the message. Without a rule that decides, it gives the answer that the prompt names for doubt.
- **critic**: says whether the answer was right, and if not, which one would have been.
- **propagator**: passes that on to the prompt, with the words of the message. Also where the answer was
  right but won by few points: so the rules get sure of it.
- **optimizer**: reads the rules in the current prompt and the feedback, and writes the prompt with better
  rules: each word gains a point for the answer it should speak for and loses one for the other (the
  perceptron's learning rule). The strongest rules stay.

So all that it ever learns stands readable in the prompt, in lines like ``- "friendly": positive +3, neutral -2``.
"""

from __future__ import annotations

import json
import re
from collections import Counter

# The first lines by which the backend's questions are told apart, and the tag of the optimizer's answer.
CRITIC = "You are the critic in an optimisation of texts."
PROPAGATOR = "You pass feedback back through a conversation in an optimisation of texts."
OPTIMIZER = "You are the optimizer in an optimisation of texts."
IMPROVED = "IMPROVED"

MAX_RULES = 200
NARROW = 15
"""A right answer that leads by fewer points is not sure enough."""

RULES_HEADING = "Rules: add up the points of the words in the message; the highest sum is the answer."

Rules = dict[str, Counter[str]]
"""Points for each answer, by word."""

_WORD = re.compile(r"[a-z][a-z']{2,}")
# Too common to tell anything in any kind of text.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "and are been but can could did does for from had has have her his i'm i've into it's its not our she some that"
        " the their them there these they this was were what when which who will with would you your"
    )
)
_RULE = re.compile(r'^- "([^"\n]+)": (.+)$', re.MULTILINE)
_POINTS = re.compile(r"(\w+) ([+-]\d+)")
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
    turns = [read_blocks(turn, "DATA")[0] for turn in read_blocks(request, "MESSAGE")]
    seen = sorted(words(turns[-1]))
    better, worse = None, None
    if found := _WRONG.search(feedback):
        worse, better = found.groups()
    elif found := _RIGHT.search(feedback):
        better, worse = found.group(1), _close_rival(turns[0], turns[-1])
    if worse and seen:
        feedback += f' These words should speak more for "{better}" and less for "{worse}": {", ".join(seen)}.'
    names = [read_blocks(variable, "NAME")[0] for variable in read_blocks(request, "VARIABLE")]
    return json.dumps(dict.fromkeys(names, feedback))


def optimise(request: str) -> str:
    """The current prompt with rules that heed the feedback of this step; earlier versions are not looked at."""
    request = request.partition("\n<HISTORY>\n")[0]
    (prompt,) = read_blocks(read_blocks(request, "VARIABLE")[0], "DATA")
    rules = read_rules(prompt)
    for feedback in read_blocks(request, "FEEDBACK"):
        for better, worse, seen in _LESSON.findall(feedback):
            for word in seen.split(", "):
                rules.setdefault(word, Counter()).update({better: +1, worse: -1})
    return f"<{IMPROVED}>\n{write_rules(prompt, rules)}\n</{IMPROVED}>"


def _ranking(prompt: str, message: str) -> list[tuple[str, int]]:
    """The answers that the rules in ``prompt`` know, with their points for ``message``, best first."""
    doubt = _DOUBT.search(prompt)
    fallback = doubt.group(1) if doubt else "unknown"
    rules = read_rules(prompt)
    points = Counter({fallback: 0})
    for word in words(message) & rules.keys():
        points.update(rules[word])
    return sorted(points.items(), key=lambda item: (-item[1], item[0] != fallback, item[0]))


def _close_rival(prompt: str, message: str) -> str | None:
    """The answer that came second, if it came close to the first."""
    (_, most), *others = _ranking(prompt, message)
    return others[0][0] if others and most - others[0][1] < NARROW else None


# --- reading and writing ------------------------------------------------------------------------


def words(text: str) -> set[str]:
    """The words of a text that may tell something: lower case, three letters or more, no stop words."""
    return set(_WORD.findall(text.lower().replace("’", "'"))) - _STOP_WORDS


def read_rules(prompt: str) -> Rules:
    """The rules that stand in a prompt."""
    return {
        word: Counter({answer: int(number) for answer, number in _POINTS.findall(points)})
        for word, points in _RULE.findall(prompt)
    }


def write_rules(prompt: str, rules: Rules) -> str:
    """The prompt with ``rules`` in place of the rules it has: the strongest ``MAX_RULES``, strongest first."""
    instructions = prompt.partition(RULES_HEADING)[0].rstrip()
    lines = []
    for word in sorted(rules, key=lambda word: (-_strength(rules[word]), word))[:MAX_RULES]:
        points = ", ".join(f"{answer} {number:+d}" for answer, number in rules[word].most_common() if number)
        if points:
            lines.append(f'- "{word}": {points}')
    return "\n".join([instructions, "", RULES_HEADING, *lines]) if lines else instructions


def _strength(points: Counter[str]) -> int:
    return sum(abs(number) for number in points.values())


def read_blocks(text: str, tag: str) -> list[str]:
    """The contents of every ``tag`` block in ``text``, in order; a tag stands alone on its line, some with a number."""
    blocks = re.finditer(rf"^<({tag}(?:_\d+)?)>\n(.*?)\n</\1>$", text, re.MULTILINE | re.DOTALL)
    return [block[2] for block in blocks]
