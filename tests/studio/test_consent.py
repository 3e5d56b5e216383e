from __future__ import annotations

import json

import pytest

from tellurio_sync.studio import check_consent, consent

REFUSED = "Consent to share your LM API key was not given. Aborting operation."


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody can be asked."""
    monkeypatch.setattr(consent, "can_ask", lambda: False)


@pytest.fixture
def answers(monkeypatch):
    """Somebody sits there and gives these answers; returns the questions."""

    def give(*texts: str) -> list[str]:
        questions: list[str] = []
        left = list(texts)

        def reply(question: str) -> str:
            questions.append(question)
            if not left:
                raise EOFError
            return left.pop(0)

        monkeypatch.setattr(consent, "can_ask", lambda: True)
        monkeypatch.setattr("builtins.input", reply)
        return questions

    return give


def decide(home, *, variable: str | None = None, file: str | None = None, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable is not None:
        monkeypatch.setenv("ALLOW_API_KEY_SHARING", variable)
    if file is not None:
        (home / ".tellurio_config.json").write_text(file)
    check_consent()


TRUE, FALSE = '{"allow_api_key_sharing": true}', '{"allow_api_key_sharing": false}'


@pytest.mark.parametrize(
    ("variable", "file"), [("true", None), (" True ", FALSE), ("TRUE", "{"), (None, TRUE), ("", TRUE)]
)
def test_given(variable, file, home, monkeypatch):
    decide(home, variable=variable, file=file, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("variable", "file", "place"),
    [("false", None, "ALLOW_API_KEY_SHARING"), ("False", TRUE, "ALLOW_API_KEY_SHARING"), (None, FALSE, "config.json")],
)
def test_an_explicit_no_is_the_last_word(variable, file, place, home, monkeypatch, answers):
    questions = answers("yes")
    with pytest.raises(RuntimeError) as caught:
        decide(home, variable=variable, file=file, monkeypatch=monkeypatch)
    assert str(caught.value).startswith(REFUSED)
    assert place in str(caught.value)
    assert questions == []


@pytest.mark.parametrize("variable", ["yes", "1", "maybe"])
def test_anything_else_in_the_variable_is_an_error(variable, home, monkeypatch):
    with pytest.raises(ValueError, match="ALLOW_API_KEY_SHARING must be true or false"):
        decide(home, variable=variable, monkeypatch=monkeypatch)


@pytest.mark.parametrize("file", [None, "{}", "{", '{"allow_api_key_sharing": "true"}'])
def test_nobody_to_ask(file, home, monkeypatch):
    with pytest.raises(RuntimeError) as caught:
        decide(home, file=file, monkeypatch=monkeypatch)
    text = str(caught.value)
    assert text.startswith("Consent to share your API key with the server is required, but no consent was found")
    assert "~/.tellurio_config.json" in text


def test_yes_counts_once(answers, home):
    questions = answers("yes", " YES ", "no")
    check_consent()
    check_consent()
    with pytest.raises(RuntimeError, match=REFUSED):
        check_consent()
    assert len(questions) == 3
    assert list(home.iterdir()) == []


def test_always_is_noted_and_keeps_the_rest(answers, home):
    file = home / ".tellurio_config.json"
    file.write_text('{"username": "me"}')
    questions = answers("always")
    check_consent()
    check_consent()
    assert len(questions) == 1
    assert json.loads(file.read_text()) == {"username": "me", "allow_api_key_sharing": True}


@pytest.mark.parametrize("texts", [("no",), ("",), ("y",), ()])
def test_anything_else_means_no(texts, answers, home):
    answers(*texts)
    with pytest.raises(RuntimeError, match=REFUSED):
        check_consent()
    assert list(home.iterdir()) == []
