from __future__ import annotations

import copy
import pickle

import pytest

from tellurio_sync import load, save
from tellurio_sync.cognitive import Add, ChatCompletion, LoadedKeys, Module, Split, Sum
from tellurio_sync.errors import UsageError
from tellurio_sync.model import CallableModel, Parameter, Variable
from tellurio_sync.model.suppression import suppress_variable_notifications


def double(x):
    return 2 * x


class Part(Module):
    def __init__(self, text="part"):
        super().__init__()
        self.prompt = Parameter(text, "prompt of the part")


class Whole(Module):
    def __init__(self, lm=None, text="whole"):
        super().__init__()
        self.lm = lm
        self.prompt = Parameter(text, "prompt")
        self.question = Variable("{message}", "message")
        self.chat = [
            {"role": "system", "content": [self.prompt]},
            {"role": "user", "content": [self.question]},
        ]
        self.config = {"model": "m", "temperature": 0}
        self.score = double
        self.part = Part()
        self.register_buffer("seen", Variable(0, "counter"))
        self.register_buffer("draft", Variable("", "draft"), persistent=False)

    def forward(self, x):
        return ("forward", x)


@pytest.fixture
def whole(link):
    return Whole(CallableModel(lambda messages: "answer"))


KINDS = {
    "parameters": ["prompt", "part.prompt"],
    "buffers": ["seen", "draft"],
    "chats": ["chat"],
    "models": ["lm"],
    "completion_configs": ["config"],
    "functions": ["score"],
    "children": ["part"],
    "modules": ["", "part"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_found_by_their_kind(whole, kind):
    named = dict(getattr(whole, f"named_{kind}")())
    assert list(named) == KINDS[kind]
    assert list(getattr(whole, kind)()) == list(named.values())
    for name, value in named.items():
        place = whole
        for step in filter(None, name.split(".")):
            place = getattr(place, step)
        assert place is value


def test_without_recursion_only_the_own_ones_are_given(whole):
    assert [name for name, _ in whole.named_parameters(recurse=False)] == ["prompt"]
    assert [name for name, _ in whole.named_parameters(prefix="x")] == ["x.prompt", "x.part.prompt"]


def test_what_is_reached_twice_is_given_once(whole):
    whole.again = whole.part
    whole.same = whole.prompt
    assert [name for name, _ in whole.named_parameters()] == ["prompt", "part.prompt"]
    assert [name for name, _ in whole.named_parameters(remove_duplicate=False)] == [
        "prompt",
        "same",
        "part.prompt",
        "again.prompt",
    ]
    assert [name for name, _ in whole.named_modules(remove_duplicate=False)] == ["", "part", "again"]


def test_private_attributes_belong_to_no_kind(whole):
    whole._cache = Parameter("x", "cache")
    assert len(list(whole.parameters())) == 2


def test_a_deleted_attribute_is_gone(whole):
    del whole.part
    assert [name for name, _ in whole.named_parameters()] == ["prompt"]


def test_a_module_without_super_init_works(link):
    class Forgetful(Module):
        def __init__(self):
            self.prompt = Parameter("x", "prompt")

    module = Forgetful()
    assert module.training
    assert [name for name, _ in module.named_parameters()] == ["prompt"]
    assert list(module.state_dict()) == ["prompt"]


def test_calling_runs_forward(whole):
    assert whole(3) == ("forward", 3)
    with pytest.raises(NotImplementedError, match=r"Part has no forward\(\)"):
        whole.part()


def test_train_and_eval_reach_all_modules(whole):
    assert whole.eval() is whole
    assert [module.training for module in whole.modules()] == [False, False]
    whole.train()
    assert [module.training for module in whole.modules()] == [True, True]
    with pytest.raises(ValueError, match="mode must be True or False"):
        whole.train(1)


def test_requires_grad_and_empty_grad_take_one_burst(whole, link):
    whole.prompt.append_grad(Variable("g", "feedback"))
    link.bursts.clear()
    whole.requires_grad_(False)
    assert [parameter.requires_grad for parameter in whole.parameters()] == [False, False]
    assert link.bursts == [["update_variable"] * 4]
    whole.empty_grad()
    assert whole.prompt.grad == []
    sent = [params for method, params in link.requests if method == "update_variable" and params["field"] == "_grad"]
    assert len(sent) == 1, "a module's parameter without gradients was told to the server, too"


@pytest.mark.parametrize(
    ("method", "value", "wrong"),
    [
        ("register_parameter", lambda: Parameter("p", "p"), "text"),
        ("register_buffer", lambda: Variable("p", "p"), "text"),
        ("register_module", lambda: Part(), "text"),
        ("register_chat", lambda: [], [{"role": 3}]),
        ("register_completion_config", lambda: {"model": "m"}, []),
        ("register_function", lambda: double, "text"),
        ("register_model", lambda: CallableModel(lambda messages: ""), "text"),
    ],
)
def test_registering_sets_the_attribute_and_checks_it(link, method, value, wrong):
    module = Module()
    made = value()
    getattr(module, method)("name", made)
    assert module.name is made
    getattr(Module(), method)("name", None)
    with pytest.raises(TypeError, match="name"):
        getattr(Module(), method)("name", wrong)
    with pytest.raises(KeyError, match="forward"):
        getattr(Module(), method)("forward", value())
    for bad in ("a.b", "", "_x"):
        with pytest.raises(KeyError):
            getattr(Module(), method)(bad, value())
    with pytest.raises(TypeError, match="name of an attribute"):
        getattr(Module(), method)(3, value())


# --- state ---------------------------------------------------------------------------------------------


def test_a_state_dict_holds_unshared_copies(whole):
    state = whole.state_dict()
    assert set(state) == {"prompt", "chat", "config", "seen", "part.prompt"}
    assert state["prompt"] is not whole.prompt
    assert type(state["prompt"]) is Parameter
    assert state["prompt"].variable_id is None
    assert state["prompt"].data == "whole"
    assert state["chat"][0]["content"][0] is state["prompt"], "one Variable in two places became two"
    assert state["config"] == whole.config
    assert state["config"] is not whole.config
    assert whole.state_dict(keep_vars=True)["prompt"] is whole.prompt
    assert set(whole.part.state_dict(prefix="a.")) == {"a.prompt"}
    filled = {"other": 1}
    assert whole.part.state_dict(destination=filled) is filled
    assert set(filled) == {"other", "prompt"}


def test_a_state_dict_is_loaded_into_the_same_variables(whole, link, tmp_path):
    whole.prompt.data = "learnt"
    whole.part.prompt.data = "learnt, too"
    whole.seen.data = 7
    whole.config["model"] = "n"
    whole.question.data = "Please: {message}"
    whole.requires_grad_(False)
    save(whole.state_dict(), tmp_path / "state.hf")
    other = Whole()
    prompt, question = other.prompt, other.question
    link.bursts.clear()
    keys = other.load_state_dict(load(tmp_path / "state.hf"))
    assert keys == LoadedKeys([], [])
    assert other.prompt is prompt
    assert prompt.data == "learnt"
    assert other.chat[0]["content"][0] is prompt
    assert other.chat[1]["content"][0] is question
    assert question.data == "Please: {message}"
    assert prompt.requires_grad
    assert (other.part.prompt.data, other.seen.data, other.config["model"]) == ("learnt, too", 7, "n")
    assert len(link.bursts) == 1


def test_assigning_makes_the_saved_variables_the_attributes(whole):
    state = whole.state_dict()
    other = Whole()
    before = other.prompt
    other.load_state_dict(state, assign=True)
    assert other.prompt is not before
    assert other.prompt.variable_id is not None
    assert other.prompt.data == "whole"


def test_another_shape_is_taken_over(whole):
    state = whole.state_dict()
    with suppress_variable_notifications():
        state["prompt"] = Parameter(["a", "b"], "prompts")
    state["chat"] = state["chat"][1:]
    whole.load_state_dict(state)
    assert whole.prompt.data == ["a", "b"]
    assert [message["role"] for message in whole.chat] == ["user"]


def test_keys_that_do_not_fit_are_named_and_nothing_changes(whole):
    state = whole.state_dict()
    del state["part.prompt"]
    state["stray"] = Variable("x", "stray")
    with suppress_variable_notifications():
        state["prompt"] = Parameter("other", "prompt")
    with pytest.raises(UsageError, match=r"lacks part\.prompt; it has stray without a place.*strict=False"):
        whole.load_state_dict(state)
    assert whole.prompt.data == "whole"
    assert whole.load_state_dict(state, strict=False) == LoadedKeys(["part.prompt"], ["stray"])
    assert whole.prompt.data == "other"


@pytest.mark.parametrize(("key", "value"), [("prompt", "text"), ("chat", "text"), ("config", []), ("seen", None)])
def test_a_value_of_another_kind_is_refused_before_anything_changes(whole, key, value):
    state = whole.state_dict()
    with suppress_variable_notifications():
        state["part.prompt"] = Parameter("changed", "p")
    state[key] = value
    with pytest.raises(TypeError, match=key):
        whole.load_state_dict(state)
    assert whole.part.prompt.data == "part"


def test_models_are_set_by_name(whole):
    lm = CallableModel(lambda messages: "")
    whole.load_state_dict(whole.state_dict(), model_clients={"lm": lm, "part.lm": lm})
    assert whole.lm is lm
    assert whole.part.lm is lm
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        whole.load_state_dict(whole.state_dict(), model_clients={"nowhere.lm": lm})


def test_extra_state_goes_along(link):
    class Counting(Module):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    module, other = Counting(), Counting()
    module.count = 3
    state = module.state_dict()
    assert state == {"_extra_state": {"count": 3}}
    other.load_state_dict(state)
    assert other.count == 3
    with pytest.raises(NotImplementedError, match="set_extra_state"):
        Module().load_state_dict(state)


def test_modules_are_copied_and_pickled(whole):
    twin = copy.deepcopy(whole.part)
    assert twin.prompt is not whole.part.prompt
    assert twin.prompt.data == "part"
    assert pickle.loads(pickle.dumps(whole.part)).prompt.data == "part"


# --- the rest ----------------------------------------------------------------------------------------


def test_a_repr_shows_the_tree(whole):
    assert repr(whole) == "Whole(\n  (part): Part()\n)"

    class Named(Module):
        def extra_repr(self):
            return "x=1"

    assert repr(Named()) == "Named(x=1)"
    whole.part.named = Named()
    assert repr(whole) == "Whole(\n  (part): Part(\n    (named): Named(x=1)\n  )\n)"


@pytest.mark.parametrize("step", ["training_step", "validation_step", "test_step"])
def test_a_step_that_is_missing_is_named(step):
    with pytest.raises(NotImplementedError, match=step):
        getattr(Module(), step)(None, 0)


def test_optimizers_are_missing_until_a_trainer_made_them():
    with pytest.raises(NotImplementedError, match="configure_optimizers"):
        Module().configure_optimizers()
    with pytest.raises(UsageError, match=r"Trainer\.fit"):
        Module().optimizers()


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        (Add, "Add", lambda: (Variable("a", ""), Variable("b", ""))),
        (Sum, "Sum", lambda: ([Variable("a", ""), Variable("b", "")],)),
        (ChatCompletion, "ChatCompletion", lambda: (None, [])),
    ],
)
def test_a_ready_module_runs_its_function(link, module, function, arguments):
    output = {
        "variable_id": "out",
        "data": "ab",
        "role": "",
        "requires_grad": False,
        "_retain_grad": False,
        "_grad": [],
        "_output_nr": 0,
        "_grad_fn": None,
        "is_leaf": True,
    }
    link.answers["run_function"] = lambda params: {"data": output}
    assert module()(*arguments()).data == "ab"
    assert link.requests[-1][1]["function_name"] == function


def test_split_gives_a_tuple(link):
    output = {
        "variable_id": "out",
        "data": "a",
        "role": "",
        "requires_grad": False,
        "_retain_grad": False,
        "_grad": [],
        "_output_nr": 0,
        "_grad_fn": None,
        "is_leaf": True,
    }
    link.answers["run_function"] = lambda params: {"data": [output, {**output, "variable_id": "out2"}]}
    assert [part.data for part in Split()(Variable("a a", ""), " ")] == ["a", "a"]
