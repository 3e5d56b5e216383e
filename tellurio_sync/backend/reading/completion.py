"""The body of an endpoint's response: a chat completion, or something else.

An endpoint may answer with anything: an error in the body of a success, the web page of the server in front of it, a
stream, a completion without a text.  Each of these has its own error, with the endpoint's own words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..questions import FailureKind
from .thoughts import part

# Beyond: of a question's kinds of words, no error text is longer.
_SAID_CHARS = 1000

_ERROR_WORDS = ("message", "error", "detail", "error_description", "title", "reason", "msg")


@dataclass(frozen=True)
class Problem:
    """Why there is no answer.

    Attributes:
        kind: what went wrong.
        text: the same in words, and what to do.
        said: the endpoint's own words; "" if there are none.
        may_pass: whether the same question may be answered if it is asked again later.
        code, param: of the error, where the endpoint gives them as OpenAI does.
    """

    kind: FailureKind
    text: str
    said: str = ""
    may_pass: bool = False
    code: str | None = None
    param: str | None = None


@dataclass(frozen=True)
class Completion:
    """The content of a response.

    Attributes:
        text: the answer without thoughts.
        thoughts: what the model thought aloud, from whatever place.
        finish_reason: None if the endpoint does not say it.
        usage: the reported tokens, even if there is no answer, because they are paid for.
        cost: the US dollars that the endpoint reports; None if it reports none.
        problem: why the text is not an answer; None if it is one.
        is_call: the text is that of the arguments in a call of a tool.
    """

    text: str = ""
    thoughts: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost: float | None = None
    problem: Problem | None = None
    is_call: bool = False


def read_completion(status: int, content_type: str, body: bytes) -> Completion:
    """What a response of the chat-completions interface says. Never raises."""
    value = _json(body)
    if status >= 300 or status < 200:
        return Completion(problem=_coded(_refusal(status, _said(value, body)), value))
    if value is _NO_JSON:
        return Completion(problem=_no_json(content_type, body))
    if not isinstance(value, dict):
        return Completion(problem=_not_a_completion("JSON that is no object", body))
    usage = _usage(value)
    problem = _error_in_success(value)
    if problem is not None:
        return Completion(usage=usage, cost=_cost(usage), problem=problem)
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Completion(usage=usage, problem=_not_a_completion("JSON without `choices`", body))
    found = _of_choice(choice)
    return replace(found, usage=usage, cost=_cost(usage))


# --- a completion -------------------------------------------------------------------------------


def _of_choice(choice: Mapping[str, Any]) -> Completion:
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    message = choice.get("message")
    if not isinstance(message, dict):
        text = (
            "It answered without a message (`message` is null)." if message is None else "Its `message` is no object."
        )
        return Completion(finish_reason=reason, problem=Problem("no_text", text))
    content, aloud = _content(message.get("content"))
    parted = part(content) if content is not None else part("")
    thoughts = "\n\n".join(filter(None, (well_formed(_thoughts_beside(message)), aloud, parted.thoughts)))
    text = parted.answer
    if content is None or (not text.strip() and (thoughts or parted.is_open or reason not in (None, "stop"))):
        called = _called(message)
        if called is not None and (content is None or not text.strip()) and reason != "length":
            return Completion(called, thoughts, reason, problem=_tool_call(called), is_call=True)
        return Completion("", thoughts, reason, problem=_without_text(message, reason, thoughts))
    if reason == "content_filter":
        return Completion(text, thoughts, reason, problem=_blocked("content filter"))
    return Completion(text, thoughts, reason)


def _content(content: Any) -> tuple[str | None, str]:
    """The text of a message's content, and thoughts in it; None for no text at all."""
    if content is None:
        return None, ""
    if isinstance(content, str):
        return well_formed(content), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for item in content if isinstance(content, list) else [content]:
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            kind = str(item.get("type") or "text").lower()
            is_thought = "think" in kind or "reason" in kind
            (thoughts if is_thought else texts).append(_inner_text(item))
    return (well_formed("".join(texts)) if any(texts) else None), well_formed("\n".join(thoughts))


def _inner_text(item: Any, depth: int = 0) -> str:
    """The text in a part of a content, however deep the endpoint puts it."""
    if isinstance(item, str):
        return item
    if depth < 5 and isinstance(item, list):
        return "".join(_inner_text(one, depth + 1) for one in item)
    if depth < 5 and isinstance(item, dict):
        for name in ("text", "thinking", "reasoning", "summary", "content", "value"):
            if item.get(name):
                return _inner_text(item[name], depth + 1)
    return ""


def _thoughts_beside(message: Mapping[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(name), (str, list)) and message[name]:
            return _inner_text(message[name])
    return ""


def _called(message: Mapping[str, Any]) -> str | None:
    """The arguments of the tool that the message calls; None: it calls none."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else {"function": message.get("function_call")}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    arguments = function.get("arguments")
    return well_formed(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def _tool_call(called: str) -> Problem:
    text = 'It answered with a call of a tool instead of a text: ask without `tools`, or with `tool_choice="none"`.'
    return Problem("no_text", text, called)


def _without_text(message: Mapping[str, Any], reason: str | None, thoughts: str) -> Problem:
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return Problem("blocked", "The model refused to answer.", refusal)
    if reason == "content_filter":
        return _blocked("content filter")
    if reason == "length":
        what = "thinking used up all tokens, and none was left for the answer" if thoughts else "the answer is empty"
        text = f'It was cut off at the token limit: {what} (finish_reason "length").'
        return Problem("cut_off", f"{text} Raise `max_tokens` (or `max_completion_tokens`).")
    if thoughts:
        return Problem("no_text", "It thought aloud and then gave no answer.", may_pass=True)
    said = "" if reason is None else f' (finish_reason "{reason[:50]}")'
    return Problem("no_text", f"It answered without a text{said}.", may_pass=True)


def _blocked(by: str) -> Problem:
    return Problem("blocked", f"The endpoint's {by} stopped the answer.")


# --- what is no completion ----------------------------------------------------------------------


def _refusal(status: int, said: str) -> Problem:
    kind, text, may_pass = _STATUS.get(status, ("server" if status >= 500 else "refused", "", status >= 500))
    if status in (301, 302, 303, 307, 308):
        text = "it wants to be asked at another address, which is not followed: give that one as `base_url`"
    return Problem(kind, f"It answered status {status}{f': {text}' if text else ''}.", said, may_pass)


def _coded(problem: Problem, value: Any) -> Problem:
    """The same with code and param of the error, and never to be tried again where the money is at an end."""
    error = value.get("error", value) if isinstance(value, dict) else None
    if not isinstance(error, dict):
        return problem
    code, param = error.get("code"), error.get("param")
    code = code if isinstance(code, str) else None
    if code == "insufficient_quota":
        return replace(
            problem, kind="refused", text="It answered that the quota of this key is used up.", may_pass=False
        )
    return replace(problem, code=code, param=param if isinstance(param, str) else None)


_STATUS: dict[int, tuple[FailureKind, str, bool]] = {
    401: ("key", "the key is missing or not valid there", False),
    402: ("refused", "it wants to be paid first", False),
    403: ("key", "the key may not do this there", False),
    404: ("refused", "no such model, or no such address: `base_url` mostly ends in /v1", False),
    408: ("server", "", True),
    409: ("server", "", True),
    413: ("refused", "the question is too long for it", False),
    425: ("server", "", True),
    429: ("rate", "too many questions; `max_concurrency` and `requests_per_minute` of the model limit them", True),
    529: ("rate", "overloaded", True),
}


def _error_in_success(value: Mapping[str, Any]) -> Problem | None:
    error = value.get("error")
    choices = value.get("choices")
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        error = choices[0].get("error")
    if not error and not choices and ("detail" in value or value.get("object") == "error"):
        error = value
    if not error:
        return None
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    status = int(code) if isinstance(code, (int, str)) and str(code).isascii() and str(code).isdigit() else 0
    said = _words(error) or _text_of(error)
    if 400 <= status < 600:
        like = _refusal(status, said)
        return Problem(
            like.kind, f"It answered with an error in the place of an answer (code {status}).", said, like.may_pass
        )
    return Problem("refused", "It answered with an error in the place of an answer.", said)


def _no_json(content_type: str, body: bytes) -> Problem:
    begin = body[:200].lstrip().lower()
    if content_type.startswith("text/event-stream") or begin.startswith((b"data:", b"event:")):
        text = "It answered with a stream although none was asked for: switch streaming off there."
        return Problem("not_a_completion", text, _beginning(body))
    if "html" in content_type or begin.startswith((b"<!doctype", b"<html")):
        text = "It answered with a web page, not with a chat completion: does `base_url` lack its /v1?"
        return Problem("not_a_completion", text, _beginning(body))
    if not begin:
        return Problem("not_a_completion", "It answered with an empty body.", may_pass=True)
    return _not_a_completion("a body that is no JSON", body)


def _not_a_completion(what: str, body: bytes) -> Problem:
    text = f"It answered with {what}, which is no chat completion: is `base_url` that of an OpenAI-compatible server?"
    return Problem("not_a_completion", text, _beginning(body))


# --- parts --------------------------------------------------------------------------------------


_NO_JSON = object()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NO_JSON


def _said(value: Any, body: bytes) -> str:
    return (_words(value) if value is not _NO_JSON else "") or _beginning(body)


def _words(value: Any, depth: int = 0) -> str:
    """The words in an error of whatever form."""
    if isinstance(value, str):
        return well_formed(value[:_SAID_CHARS])
    if depth < 4 and isinstance(value, list) and value:
        return _words(value[0], depth + 1)
    if depth < 4 and isinstance(value, dict):
        for name in _ERROR_WORDS:
            if words := _words(value.get(name), depth + 1):
                return words
    return ""


def _text_of(value: Any) -> str:
    try:
        return well_formed(json.dumps(value, ensure_ascii=False)[:_SAID_CHARS])
    except RecursionError:
        return ""


def _beginning(body: bytes) -> str:
    return " ".join(body[:300].decode("utf-8", "replace").split())


def _usage(value: Mapping[str, Any]) -> Mapping[str, Any]:
    usage = value.get("usage")
    return usage if isinstance(usage, dict) else {}


def _cost(usage: Mapping[str, Any]) -> float | None:
    """What the endpoint says that it cost, in US dollars (OpenRouter's form)."""
    for name in ("cost", "total_cost"):
        cost = usage.get(name)
        if isinstance(cost, (int, float)) and not isinstance(cost, bool) and math.isfinite(cost) and cost >= 0:
            return float(cost)
    return None


def well_formed(text: str) -> str:
    """``text`` as UTF-8 can encode it: two halves of a character become one, a half alone is replaced (U+FFFD)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
