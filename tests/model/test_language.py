from __future__ import annotations

import copy
import logging
import pickle

import pytest

from tellurio_sync.client import server_methods
from tellurio_sync.errors import RemoteError, RemoteProtocolError, UsageError
from tellurio_sync.jsonrpc import RpcError
from tellurio_sync.model import AsyncOpenAI, CallableModel, OpenAI
from tellurio_sync.model.language import initial_usage

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def answer(messages):
    return "text"


@pytest.mark.parametrize("cls", [OpenAI, AsyncOpenAI])
def test_what_the_server_is_told(link, cls):
    model = cls(api_key=KEY)
    assert link.calls("create_model") == [
        {
            "class_type": cls.__name__,
            "provider": "openai",
            "config": {"api_key": KEY, "max_retries": 2},
            "usage": initial_usage(),
        }
    ]
    assert link.registries.models.lookup(model.model_id) is model
    assert link.asked_for_consent == 1


def test_every_setting_that_is_given_is_sent(link):
    settings = {
        "organization": "o",
        "project": "p",
        "base_url": "http://localhost:1/v1",
        "websocket_base_url": "ws://localhost:1",
        "timeout": 2.5,
        "max_retries": 0,
        "default_headers": {"X-A": "b"},
        "default_query": {"a": 1},
    }
    OpenAI(api_key=KEY, **settings)
    assert link.calls("create_model")[0]["config"] == {"api_key": KEY, **settings}


def test_the_key_may_come_from_the_environment(link, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAI()
    assert link.calls("create_model")[0]["config"]["api_key"] == KEY


def test_a_missing_key_is_an_error_before_anything_else(link):
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        OpenAI()
    assert link.calls() == []
    assert link.asked_for_consent == 0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"api_key": b"x"}, TypeError),
        ({"base_url": 3}, TypeError),
        ({"timeout": "3"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"max_retries": 1.5}, TypeError),
        ({"max_retries": -1}, ValueError),
        ({"default_headers": ["a"]}, TypeError),
        ({"default_headers": {1: "a"}}, TypeError),
        ({"default_headers": {"a": b"x"}}, TypeError),
    ],
)
def test_settings_that_cannot_be_sent_are_refused(link, settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        OpenAI(**{"api_key": KEY, **settings})
    assert link.calls() == []


def test_a_server_on_this_machine_needs_no_consent(link):
    link.is_local = True
    OpenAI(api_key=KEY)
    assert link.asked_for_consent == 0
    assert len(link.calls("create_model")) == 1


def test_without_consent_nothing_is_sent(link):
    link.refusal = RuntimeError("no consent")
    with pytest.raises(RuntimeError, match="no consent"):
        OpenAI(api_key=KEY)
    assert link.calls() == []


def test_no_secret_shows(link, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    model = OpenAI(api_key=KEY, default_headers={"Authorization": KEY}, base_url="http://localhost:1")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    for shown in (repr(model), str(model), repr(vars(model)), pickle.dumps(model), pickle.dumps(model._config)):
        assert KEY not in (shown.decode("latin-1") if isinstance(shown, bytes) else shown)
    assert KEY not in caplog.text
    assert "http://localhost:1" in repr(model)


def test_an_unpickled_model_takes_its_key_from_the_environment(link, monkeypatch):
    text = pickle.dumps(OpenAI(api_key=KEY, base_url="http://localhost:1", timeout=3))
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-child")
    assert type(pickle.loads(text)) is OpenAI
    assert link.calls("create_model")[1]["config"] == {
        "api_key": "key-of-the-child",
        "base_url": "http://localhost:1",
        "timeout": 3,
        "max_retries": 2,
    }


def test_copying_what_uses_a_model_makes_no_other(link):
    model = CallableModel(answer)
    assert copy.deepcopy({"model": model})["model"] is model
    assert copy.copy(model) is model


@pytest.mark.parametrize("result", [{}, {"model_id": ""}, None])
def test_a_reply_without_an_id_is_an_error(link, result):
    link.answers["create_model"] = lambda params: result
    with pytest.raises(RemoteProtocolError, match="model_id"):
        CallableModel(answer)


# --- usage --------------------------------------------------------------------------------------


def test_usage_is_what_the_server_reports(link):
    model = CallableModel(answer)
    used = {**initial_usage(), "total_tokens": 7}
    link.push("update_model", model_id=model.model_id, field="_usage", value=used)
    usage = model.get_usage()
    assert usage == used
    usage["cost"]["amount"] = 99
    assert model.get_usage() == used
    assert model.describe() == {"class_type": "CallableModel", "provider": "callable", "usage": used}


def test_clearing_usage_is_up_to_the_server(link):
    model = CallableModel(answer)
    link.push("update_model", model_id=model.model_id, field="_usage", value={"total_tokens": 7})

    def clear(params):
        link.push("update_model", model_id=params["model_id"], field="_usage", value=initial_usage())
        return params

    link.answers["clear_model_usage"] = clear
    model.clear_usage()
    assert model.get_usage() == initial_usage()


# --- callable models ----------------------------------------------------------------------------


def call(link, model, *args, **kwargs):
    callable_id = model._config["callable_id"]
    return server_methods.run_callable(link, {"callable_id": callable_id, "args": list(args), "kwargs": kwargs})


def test_a_callable_model_is_called_with_messages_and_completion_args(link):
    calls = []

    def fn(messages, **completion_args):
        calls.append((messages, completion_args))
        return "answer"

    model = CallableModel(fn)
    sent = link.calls("create_model")[0]
    assert (sent["class_type"], sent["provider"]) == ("CallableModel", "callable")
    assert sent["config"] == {"callable_id": model._config["callable_id"]}
    messages = [{"role": "user", "content": "hi"}]
    assert call(link, model, messages, temperature=0) == {"message": "Ok", "data": "answer"}
    assert calls == [(messages, {"temperature": 0})]
    assert link.asked_for_consent == 0


@pytest.mark.parametrize("answered", [None, 3, ["a"], {"content": "a"}])
def test_a_callable_model_must_answer_text(link, answered):
    model = CallableModel(lambda messages: answered)
    with pytest.raises(RpcError) as caught:
        call(link, model, [])
    assert "must return a str, not" in caught.value.data["exception"]


async def coroutine(messages):
    return "text"


@pytest.mark.parametrize("fn", ["text", None, coroutine])
def test_a_callable_model_needs_a_plain_function(link, fn):
    with pytest.raises(TypeError, match="CallableModel takes"):
        CallableModel(fn)


def test_a_callable_model_and_its_registration_go_together(link):
    model = CallableModel(answer)
    assert len(link.registries.callables) == 1
    del model
    assert (len(link.registries.callables), len(link.registries.models)) == (0, 0)


def test_a_callable_model_pickles_with_its_function(link):
    assert pickle.loads(pickle.dumps(CallableModel(answer)))._function is answer


# --- vectors --------------------------------------------------------------------------------------


def answer_embed(link):
    link.extensions = frozenset({"embed"})
    link.answers["embed"] = lambda params: {"vectors": [[len(text), 0.5] for text in params["texts"]]}


def test_vectors_of_one_text_and_of_several(link):
    answer_embed(link)
    model = OpenAI(api_key="k")
    assert model.embed("abc", model="small", dimensions=2) == [3, 0.5]
    assert model.embed(("a", "ab"), model="small") == [[1, 0.5], [2, 0.5]]
    assert model.embed([], model="small") == []
    sent = {"model_id": model.model_id, "completion_args": {"model": "small", "dimensions": 2}, "texts": ["abc"]}
    assert (link.calls("embed")[0], len(link.calls("embed"))) == (sent, 2)


def test_many_texts_go_in_one_round_trip_and_several_requests(link):
    answer_embed(link)
    vectors = OpenAI(api_key="k").embed(["x" * n for n in range(250)])
    assert [vector[0] for vector in vectors] == list(range(250))
    assert link.bursts == [["embed"] * 3]


def test_no_vectors(link):
    model = OpenAI(api_key="k")
    with pytest.raises(UsageError, match="local backend"):
        model.embed("a")
    answer_embed(link)
    for texts in (["a", 1], [None], 5):
        with pytest.raises(TypeError):
            model.embed(texts)
    assert link.calls("embed") == []
    link.answers["embed"] = lambda params: {"vectors": []}
    with pytest.raises(RemoteProtocolError, match="vector for each"):
        model.embed("a")

    def refuse(params):
        raise RemoteError(-32603, "Internal error", {"exception": "no such model"})

    link.answers["embed"] = refuse
    with pytest.raises(RemoteError, match="no such model"):
        model.embed(["a"])


def vectors_of(texts, scale=1):
    return [(len(text) * scale, 1) for text in texts]


def test_a_function_gives_vectors_here(link):
    model = CallableModel(str, embed=vectors_of)
    assert model.embed(["a", "ab"], scale=2) == [[2.0, 1.0], [4.0, 1.0]]
    assert model.embed("abc") == [3.0, 1.0]
    assert pickle.loads(pickle.dumps(model)).embed("a") == [1.0, 1.0]
    assert link.calls("embed") == []
    with pytest.raises(UsageError, match=r"CallableModel\(fn, embed=\.\.\.\)"):
        CallableModel(str).embed("a")
    with pytest.raises(ValueError, match="each of the 1 texts, not 0"):
        CallableModel(str, embed=lambda texts: []).embed("a")
    with pytest.raises(TypeError, match="must be a function"):
        CallableModel(str, embed=1)
