from __future__ import annotations

import pytest

from tellurio_sync.autodiff import get_backward_model_client, set_backward_model_client
from tellurio_sync.errors import RemoteProtocolError, UsageError
from tellurio_sync.model import CallableModel, OpenAI

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def methods(link):
    return [method for method, _ in link.calls()]


def test_there_is_none_before_one_is_set(link):
    text = "No global model client set for backward pass. Call `set_backward_model_client` to define one."
    with pytest.raises(RuntimeError) as caught:
        get_backward_model_client()
    assert str(caught.value) == text


def test_the_default(link):
    set_backward_model_client()
    backward_model = get_backward_model_client()
    assert (backward_model.provider, backward_model.model) == ("openai", "gpt-4o")
    assert methods(link) == ["create_model", "set_model_singleton"]
    assert link.calls("set_model_singleton") == [
        {
            "model_id": backward_model.client.model_id,
            "model_name": "gpt-4o",
            "client_args": {},
            "completion_args": {},
        }
    ]


def test_the_key_is_sent_once_and_the_callers_dict_stays(link):
    """Protocol §H.4."""
    client_args = {"api_key": "sk-mine", "timeout": 3}
    set_backward_model_client("openai/gpt-4o-mini", client_args, {"temperature": 0})
    assert client_args == {"api_key": "sk-mine", "timeout": 3}
    assert link.calls("create_model")[0]["config"]["api_key"] == "sk-mine"
    (params,) = link.calls("set_model_singleton")
    assert (params["client_args"], params["completion_args"]) == ({"timeout": 3}, {"temperature": 0})
    assert "sk-mine" not in repr(get_backward_model_client())


def test_completion_arguments_may_be_named_as_for_functions(link):
    set_backward_model_client(OpenAI(), completion_args={"temperature": 0}, model="tiny")
    (params,) = link.calls("set_model_singleton")
    assert (params["model_name"], params["completion_args"]) == ("tiny", {"temperature": 0, "model": "tiny"})


def test_setting_the_same_again_makes_no_call(link):
    for _ in range(2):
        set_backward_model_client("openai/gpt-4o", None, {})
    assert len(link.calls()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model_path": "openai/gpt-4o-mini"},
        {"client_args": {"timeout": 3}},
        {"client_args": {"api_key": "sk-other"}},
        {"completion_args": {"temperature": 1}},
    ],
)
def test_a_change_makes_a_new_model(link, change):
    set_backward_model_client()
    set_backward_model_client(**change)
    assert len(link.calls("create_model")) == 2


def test_a_callable_model(link):
    model = CallableModel(lambda messages: "")
    for _ in range(2):
        set_backward_model_client(model, completion_args={"temperature": 0})
    assert get_backward_model_client().client is model
    assert link.calls("set_model_singleton") == [
        {
            "model_id": model.model_id,
            "model_name": "callable",
            "client_args": {},
            "completion_args": {"temperature": 0},
        }
    ]


def test_an_openai_object_needs_the_name_of_the_model(link):
    model = OpenAI()
    with pytest.raises(ValueError, match="Say which model"):
        set_backward_model_client(model)
    set_backward_model_client(model, completion_args={"model": "gpt-4o-mini"})
    assert link.calls("set_model_singleton")[0]["model_name"] == "gpt-4o-mini"
    with pytest.raises(ValueError, match="client_args"):
        set_backward_model_client(model, {"timeout": 3}, {"model": "gpt-4o"})


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gpt-4o", "`model_path` must be in the format 'provider/model'"),
        ("openai/", "`model_path` must be in the format 'provider/model'"),
        (None, "`model_path` must be in the format 'provider/model'"),
        ("other/gpt", "Unsupported provider: other."),
    ],
)
def test_other_paths_are_refused(link, path, text):
    with pytest.raises(ValueError) as caught:
        set_backward_model_client(path)
    assert str(caught.value) == text
    assert link.calls() == []


def test_bad_client_args_are_refused(link, monkeypatch):
    with pytest.raises(TypeError, match="colour"):
        set_backward_model_client(client_args={"colour": "red"})
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError):
        set_backward_model_client()
    assert link.calls() == []


@pytest.mark.parametrize("wrong", [{"model_id": "x"}, {"completion_args": {"a": 1}}])
def test_a_different_echo_is_an_error_and_sets_nothing(link, wrong):
    link.answers["set_model_singleton"] = lambda params: {**params, **wrong}
    with pytest.raises(RemoteProtocolError):
        set_backward_model_client()
    with pytest.raises(UsageError):
        get_backward_model_client()
