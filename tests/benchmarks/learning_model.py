"""A scripted language model that learns only from what it is shown, as an endpoint for any optimiser of prompts.

It is the demo's stand-in (``tellurio_sync.examples.stand_in``), which keeps nothing between two questions: what it has
learnt stands in the prompt.  Its rules, the same for every program that asks:

1. A question whose system message begins with the trained prompt is a **forward** question: the answer is that to which
   the words in the prompt speak for, given the words of the mail.
2. A question of our own backend (told by its first line) is answered as the stand-in does: **critic**, **propagator**,
   **optimizer**.
3. Any other question is about mails that stand in it between ``Mail:`` and ``(end of mail)``.  What it says of a mail
   after that, ``The answer "x" is wrong, "y" would have been right.``, is a lesson about the words of that mail; so is
   a lesson in words (below).

   * If the question wants an improved text (``<IMPROVED_VARIABLE>``, or a block between three backticks), it is an
     **optimizer**'s: the answer is the prompt in it, with signs that heed the lessons.
   * Otherwise it wants feedback: the answer is the lessons in words, ``These words should speak more for "y" and less
     for "x": ...``; the last verdict alone, where there is no mail.

Deterministic; it can be asked by many threads at once.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import (
    CRITIC,
    OPTIMIZER,
    PROPAGATOR,
    Lesson,
    heeded,
    read_signs,
    stand_in,
    words,
    write_signs,
)

_FIRST_LINE = START_PROMPT.splitlines()[0]
_KINDS = {CRITIC: "critic", PROPAGATOR: "propagator", OPTIMIZER: "optimizer"}

_MAIL = re.compile(r"Mail: (.*?) \(end of mail\)", re.DOTALL)
_VERDICT = re.compile(r'The answer "([^"\n]*)" is (?:wrong, "([^"\n]*)" would have been )?right\.')
_LESSON = re.compile(r'These words should speak more for "([^"\n]*)" and less for "([^"\n]*)": ([^.\n]*)\.')
_PROMPT = re.compile(re.escape(START_PROMPT) + r"(?:\n\nLook in the message[^\n]*(?:\n[^\n<`]+)*)?")


def answer(messages: list[dict[str, str]]) -> tuple[str, str]:
    """The kind of a question, and its answer."""
    system, user = messages[0]["content"], messages[-1]["content"]
    first_line = system.partition("\n")[0]
    if first_line in _KINDS:
        return _KINDS[first_line], stand_in(messages)
    if first_line == _FIRST_LINE:
        return "forward", stand_in(messages)
    text = f"{system}\n{user}" if len(messages) > 1 else user
    lessons = _lessons(text)
    if "IMPROVED_VARIABLE" in text or "```" in text:
        found = _PROMPT.search(user) or _PROMPT.search(text)
        prompt = found[0].rstrip() if found else START_PROMPT
        better = write_signs(prompt, heeded(read_signs(prompt), lessons))
        if "IMPROVED_VARIABLE" in text:
            return "optimizer", f"<IMPROVED_VARIABLE>{better}</IMPROVED_VARIABLE>"
        return "optimizer", f"```\n{better}\n```"
    if lessons:
        return "propagator", " ".join(map(_in_words, lessons))
    verdicts = _VERDICT.findall(user)
    return "critic", _verdict_in_words(*verdicts[-1]) if verdicts else "There is nothing to say."


def _lessons(text: str) -> list[Lesson]:
    lessons = [Lesson(better, worse, seen.split(", ")) for better, worse, seen in _LESSON.findall(text)]
    mails = list(_MAIL.finditer(text))
    for mail, following in zip(mails, [*mails[1:], None]):
        about = text[mail.end() : following.start() if following else len(text)]
        verdict = _VERDICT.search(about)
        if verdict and verdict[2]:
            lessons.append(Lesson(verdict[2], verdict[1], sorted(words(mail[1]))))
    return lessons


def _in_words(lesson: Lesson) -> str:
    return (
        f'These words should speak more for "{lesson.better}" and less for "{lesson.worse}": {", ".join(lesson.words)}.'
    )


def _verdict_in_words(given: str, wanted: str) -> str:
    return (
        f'The answer "{given}" is wrong, "{wanted}" would have been right.'
        if wanted
        else f'The answer "{given}" is right.'
    )


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions, and counts questions and words by phase and kind. Use it in a ``with`` block.

    GET ``/phase/NAME`` begins a phase of the program that asks; GET ``/total`` gives the number of all questions.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.phase = "start"
        self.questions: Counter[tuple[str, str]] = Counter()
        self.words: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Endpoint:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(60)


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            if self.path.startswith("/phase/"):
                self.server.phase = self.path.rpartition("/")[2]
            total = sum(self.server.questions.values())
        self._send({"total": total})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = request["messages"]
        kind, text = answer(messages)
        count = sum(len(message["content"].split()) for message in messages)
        with self.server.lock:
            self.server.questions[self.server.phase, kind] += 1
            self.server.words[self.server.phase] += count
        usage = {"prompt_tokens": count, "completion_tokens": len(text.split()), "total_tokens": count}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._send(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "scripted",
                "choices": [choice],
                "usage": usage,
            }
        )

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
