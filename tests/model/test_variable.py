from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest

from tellurio_sync.autodiff import no_grad
from tellurio_sync.errors import RemoteError, RemoteProtocolError, UsageError
from tellurio_sync.model import Parameter, Variable, is_scalar_variable, suppress_variable_notifications
from tellurio_sync.model.graph import GradientEdge, Node
from tellurio_sync.model.variable_state import bind_node, received, set_local
from tests.model.fake_link import FAILSAFE_S, tag


def updates(link):
    return [(params["field"], params["value"]) for params in link.calls("update_variable")]


def non_leaf(link, data="out", retain=False):
    variable = received(Variable, link, link.new_id("variable"), data, "r", True)
    set_local(variable, "is_leaf", False)
    set_local(variable, "_retain_grad", retain)
    link.registries.variables.register(variable.variable_id, variable)
    return variable


# --- making -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sent"),
    [
        (Variable, {"data": "", "role": "", "requires_grad": False, "obj_type": "__variable__"}),
        (Parameter, {"data": None, "role": None, "requires_grad": True, "obj_type": "__parameter__"}),
        (
            lambda: Variable([1, 2.5], role="numbers", requires_grad=True),
            {"data": [1.0, 2.5], "role": "numbers", "requires_grad": True, "obj_type": "__variable__"},
        ),
    ],
)
def test_a_new_variable_is_shared_at_once(link, make, sent):
    variable = make()
    assert link.calls() == [("create_variable", sent)]
    assert variable.variable_id == "variable-1"
    assert (variable.data, variable.role, variable.requires_grad) == (sent["data"], sent["role"], sent["requires_grad"])
    assert (variable.is_leaf, variable.grad, variable.grad_fn, variable.output_nr) == (True, [], None, 0)


@pytest.mark.parametrize("arguments", [(("a",),), ({"a": 1},), (["a", 1],), ("a", "r", 1)])
def test_bad_arguments_are_refused_before_any_call(link, arguments):
    with pytest.raises(TypeError):
        Variable(*arguments)
    assert link.calls() == []


@pytest.mark.parametrize("result", [None, {}, {"variable_id": ""}, {"variable_id": None}, {"variable_id": 3}])
def test_a_reply_without_an_id_is_an_error(link, result):
    link.answers["create_variable"] = lambda params: result
    with pytest.raises(RemoteProtocolError, match="variable_id"):
        Variable("a")


def test_there_must_be_a_session(monkeypatch):
    monkeypatch.setattr("tellurio_sync.model.session_link._default", None)
    with pytest.raises(UsageError, match="login"):
        Variable("a")


def test_under_suppression_nothing_is_sent(link):
    with suppress_variable_notifications():
        variable = Variable("a")
        variable.data = "b"
    variable.role = "r"
    assert link.calls() == []
    assert (variable.variable_id, variable.data, variable.role) == (None, "b", "r")


def test_suppression_ends_as_it_began_and_may_be_nested(link):
    with suppress_variable_notifications():
        with suppress_variable_notifications():
            pass
        Variable("a")
    Variable("b")
    assert [params["data"] for params in link.calls("create_variable")] == ["b"]


def test_suppression_in_one_thread_is_none_in_another(link):
    """Protocol §F.5."""
    entered, done = threading.Event(), threading.Event()

    def suppress():
        with suppress_variable_notifications():
            entered.set()
            done.wait(FAILSAFE_S)

    thread = threading.Thread(target=suppress)
    thread.start()
    assert entered.wait(FAILSAFE_S)
    variable = Variable("a")
    done.set()
    thread.join(FAILSAFE_S)
    assert variable.variable_id is not None


# --- setting ------------------------------------------------------------------------------------


def set_grad(variable):
    variable.grad = [Variable("g")]


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (lambda v: setattr(v, "data", [True, 1.0]), [("data", [1.0, 1.0])]),
        (lambda v: setattr(v, "role", "new"), [("role", "new")]),
        (lambda v: setattr(v, "role", ("a", ["b"])), [("role", ["a", ["b"]])]),
        (lambda v: setattr(v, "requires_grad", True), [("requires_grad", True)]),
        (lambda v: setattr(v, "is_leaf", False), [("is_leaf", False)]),
        (lambda v: setattr(v, "_retain_grad", True), [("_retain_grad", True)]),
        (lambda v: v.requires_grad_(), [("requires_grad", True), ("is_leaf", True)]),
        (lambda v: setattr(v, "output_nr", 3), [("_output_nr", 3)]),
        (set_grad, [("_grad", [{"__variable__": True, "variable_id": "variable-2"}])]),
        (lambda v: setattr(v, "foo", {1: (2,)}), [("foo", {"1": [2]})]),
        (lambda v: v.copy_(Variable("b", "rb", True)), [("data", "b"), ("role", "rb"), ("requires_grad", True)]),
        (lambda v: setattr(v, "_mine", object()), []),
        (lambda v: setattr(v, "_pending_data", False), []),
    ],
)
def test_what_a_set_sends(link, change, sent):
    """Protocol §F.5: one call for data."""
    variable = Variable("a")
    change(variable)
    assert updates(link) == sent


def test_retain_grad_is_for_computed_variables(link):
    variable = non_leaf(link)
    variable.retain_grad()
    assert updates(link) == [("_retain_grad", True)]
    with pytest.raises(UsageError, match="Cannot call `retain_grad` on a leaf variable"):
        Variable("a").retain_grad()


@pytest.mark.parametrize(
    ("attribute", "value"), [("data", "new"), ("role", "new"), ("output_nr", 1), ("is_leaf", False), ("foo", 1)]
)
def test_a_refused_set_changes_nothing_here(link, attribute, value):
    """Protocol §F.5."""
    variable = Variable("old", "old")
    before = getattr(variable, attribute, "absent")

    def refuse(params):
        raise RemoteError(-32603, "Internal error", {"exception": "no"})

    link.answers["update_variable"] = refuse
    with pytest.raises(RuntimeError, match="no"):
        setattr(variable, attribute, value)
    assert getattr(variable, attribute, "absent") == before


@pytest.mark.parametrize("wrong", [{"variable_id": "other"}, {"field": "role"}, {"value": "other"}])
def test_a_different_echo_is_an_error(link, wrong):
    variable = Variable("a")
    link.answers["update_variable"] = lambda params: {**params, **wrong}
    with pytest.raises(RemoteProtocolError, match="Server response mismatch"):
        variable.data = "b"
    assert variable.data == "a"


@pytest.mark.parametrize(
    ("attribute", "value", "error"),
    [
        ("data", (1,), TypeError),
        ("data", float("nan"), ValueError),
        ("output_nr", -1, TypeError),
        ("output_nr", True, TypeError),
        ("requires_grad", "yes", TypeError),
        ("is_leaf", None, TypeError),
        ("grad", ["text"], TypeError),
        ("grad", None, TypeError),
        ("foo", object(), ValueError),
        ("shape", (1,), AttributeError),
        ("grad_fn", None, AttributeError),
    ],
)
def test_bad_values_are_refused_before_any_call(link, attribute, value, error):
    variable = Variable("a")
    with pytest.raises(error):
        setattr(variable, attribute, value)
    assert updates(link) == []


def test_added_attributes_are_readable(link):
    variable = Variable("a")
    variable.foo = [1]
    assert variable.foo == [1]


# --- gradients ----------------------------------------------------------------------------------


def test_grad_of_a_computed_variable_needs_retain_grad(link):
    variable = non_leaf(link)
    for use in (lambda: variable.grad, lambda: set_grad(variable), lambda: variable.append_grad(Variable("g"))):
        with pytest.raises(RuntimeError, match="retain_grad"):
            use()
    assert non_leaf(link, retain=True).grad == []


def test_append_grad_appends_after_the_ack(link):
    variable, gradient = Variable("a"), Variable("g")
    live = variable.grad
    variable.append_grad(gradient)
    assert link.calls("append_grad") == [{"variable_id": variable.variable_id, "gradient": tag(gradient)}]
    assert live == [gradient]
    assert variable.grad is live
    link.answers["append_grad"] = lambda params: {**params, "gradient_id": "other"}
    with pytest.raises(RemoteProtocolError):
        variable.append_grad(gradient)
    assert live == [gradient]


def test_a_gradient_must_be_known_to_the_server(link):
    with suppress_variable_notifications():
        gradient = Variable("g")
    with pytest.raises(UsageError, match="does not know it"):
        Variable("a").append_grad(gradient)


def test_backward_of_a_leaf_is_refused_without_a_call(link):
    variable = Variable("a", requires_grad=True)
    before = len(link.calls())
    with pytest.raises(RuntimeError, match=r"Variable does not require grad or does not have a grad_fn\."):
        variable.backward()
    assert len(link.calls()) == before


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["a", 1, None])
def test_only_variables_can_be_added(link, other):
    variable = Variable("a")
    with pytest.raises(TypeError, match=r"Only Variables can be added to each other\."):
        variable + other
    with pytest.raises(TypeError, match=r"Only Variables can be added to each other\."):
        variable += other


def test_adding_runs_add_on_the_server(link):
    x, y = Variable("a"), Parameter("b")
    link.answers["run_function"] = lambda params: {"data": link.output("ab", role="x and y")}
    z = x + y
    assert link.calls("run_function") == [
        {"function_name": "Add", "grad_enabled": True, "args": [tag(x), tag(y)], "kwargs": {}}
    ]
    assert (z.data, z.role) == ("ab", "x and y")


def answer_add(link, needs_grad=True):
    def answer(params):
        if not (needs_grad and params["grad_enabled"]):
            return {"data": link.output("ab", role="sum")}
        node_id = link.new_id("node")
        link.push("create_node", node_id=node_id, name="AddBackward0")
        return {"data": link.computed("ab", node_id, role="sum")}

    link.answers["run_function"] = answer


def test_adding_in_place_keeps_the_object_and_takes_over_the_result(link):
    x, y = Variable("a"), Variable("b", requires_grad=True)
    before = x
    answer_add(link)
    x += y
    assert x is before
    assert (x.data, x.role, x.requires_grad, x.is_leaf, x.grad_fn.name()) == ("ab", "sum", True, False, "AddBackward0")
    assert updates(link) == [
        ("data", "ab"),
        ("role", "sum"),
        ("requires_grad", True),
        ("_grad_fn", x.grad_fn.node_id),
        ("is_leaf", False),
    ]


def test_adding_in_place_twice_keeps_the_arguments_of_both(link):
    x, y, z = Variable("a"), Variable("b", requires_grad=True), Variable("c", requires_grad=True)
    answer_add(link)
    x += y
    x += z
    kept = [weakref.ref(y), weakref.ref(z)]
    del y, z
    gc.collect()
    assert all(ref() is not None for ref in kept)
    del x
    gc.collect()
    assert all(ref() is None for ref in kept)


@pytest.mark.parametrize("cls", [Variable, Parameter])
def test_a_leaf_that_needs_grad_is_not_added_to_in_place(link, cls):
    """Protocol §F.6."""
    leaf = cls("a", "r", requires_grad=True)
    before = len(link.calls())
    with pytest.raises(UsageError, match=r"write `y = x \+ other`"):
        leaf += leaf
    assert len(link.calls()) == before


@pytest.mark.parametrize("cls", [Variable, Parameter])
def test_under_no_grad_a_leaf_is_added_to_and_stays_a_leaf(link, cls):
    """Protocol §F.6: a Parameter too."""
    leaf = cls("a", "r", requires_grad=True)
    answer_add(link)
    with no_grad():
        leaf += Variable("b")
    assert (leaf.data, leaf.requires_grad, leaf.is_leaf) == ("ab", True, True)
    assert updates(link) == [("data", "ab"), ("role", "sum")]


# --- copies -------------------------------------------------------------------------------------


def test_detach_gives_a_new_leaf_with_the_same_data(link):
    variable = Variable(["a"], "r", True)
    detached = variable.detach()
    assert detached.data is variable.data
    assert (detached.role, detached.requires_grad) == ("r", False)
    assert detached.variable_id != variable.variable_id


@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        ("3", int, 3),
        ([1, None, [0]], str, ["1", None, ["0"]]),
        ([1, 2], float, [1.0, 2.0]),
        ([0, 1], bool, [False, True]),
        (["a", None], None, ["a", None]),
        (None, int, None),
    ],
)
def test_to_converts_every_leaf(link, data, dtype, expected):
    variable = Variable(data)
    converted = variable.to(dtype)
    assert converted.data == expected
    assert converted.variable_id not in (None, variable.variable_id)
    if isinstance(data, list):
        assert converted.data is not variable.data


def test_to_an_unknown_type_is_refused(link):
    with pytest.raises(TypeError, match="dtype"):
        Variable("a").to(bytes)


def test_copy_copies_lists_and_checks_shapes(link):
    source, target = Variable([["a"], ["b"]], "r", True), Variable([["c"], ["d"]])
    assert target.copy_(source) is target
    assert target.data == source.data
    assert target.data[0] is not source.data[0]
    with pytest.raises(ValueError, match="equal shapes"):
        target.copy_(Variable("a"))
    with pytest.raises(TypeError, match="copy_ takes a Variable"):
        target.copy_("a")


@pytest.mark.parametrize("cls", [Variable, Parameter])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_has_its_own_id(link, cls, how):
    """Protocol §F.6."""
    original = cls(["a"], "r", True)
    original.foo = ["x"]
    original.append_grad(Variable("g"))
    copied = how(original)
    assert type(copied) is cls
    assert copied.variable_id not in (None, original.variable_id)
    assert link.registries.variables.lookup(copied.variable_id) is copied
    assert (copied.data, copied.role, copied.requires_grad, copied.foo, copied.grad) == (["a"], "r", True, ["x"], [])
    assert copied.data is not original.data


def test_deepcopy_of_a_structure_copies_each_variable_once(link):
    variable = Variable("a")
    one, other = copy.deepcopy([variable, variable])
    assert one is other is not variable


def test_a_computed_variable_is_not_copied(link):
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(non_leaf(link))


def test_a_pickle_holds_the_content_and_makes_no_call(link):
    parameter = Parameter(["a"], "r")
    parameter.foo = 1
    text = pickle.dumps(parameter)
    before = len(link.calls())
    loaded = pickle.loads(text)
    assert (type(loaded), loaded.data, loaded.role, loaded.requires_grad) == (Parameter, ["a"], "r", True)
    assert (loaded.foo, loaded.variable_id) == (1, None)
    assert len(link.calls()) == before


# --- what it is and how it shows ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [(1.0, True), (1, False), ("a", False), (None, False), ([1.0, None], True), ([None], False), ([], False)],
)
def test_is_floating_point(link, data, expected):
    assert Variable(data).is_floating_point() is expected


@pytest.mark.parametrize(("data", "expected"), [("a", True), (1, True), (False, True), (None, False), (["a"], False)])
def test_is_scalar_variable(link, data, expected):
    assert is_scalar_variable(Variable(data)) is expected


def test_variables_are_equal_and_hashed_by_identity(link):
    one, other = Variable("a"), Variable("a")
    assert one != other
    assert len({one, other}) == 2


LONG = "a" * 20 + "b" + "c" * 20


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("short", "short"),
        (LONG, "a" * 20 + "..." + "c" * 20),
        ([1, 2, 3, 4, 5, 6], "[1, 2, 3, 4, 5, 6]"),
        ([1, 2, 3, 4, 5, 6, 7], "[1, 2, 3, ..., 5, 6, 7]"),
        (None, "None"),
    ],
)
def test_str_is_brief(link, data, shown):
    assert str(Variable(data, "r")) == f"variable({shown}, role=r, requires_grad=False)"


def test_str_of_data_that_contains_itself(link):
    variable = Variable([1], "r")
    variable.data.extend([variable.data] * 7)
    assert str(variable).startswith("variable([1, [...], [...], ..., [...], [...], [...]], role=r")


def test_repr_is_complete(link):
    assert repr(Variable(LONG, "r", True)) == f"Variable(data={LONG!r}, role='r', requires_grad=True)"
    shown = "Parameter containing:\n  Variable(data='a', role='r', requires_grad=True)"
    assert repr(Parameter("a", "r")) == shown


def test_a_computed_variable_shows_its_node(link):
    variable = received(Variable, link, "v", "a", "r", True)
    bind_node(variable, Node("n", "AddBackward0"))
    assert str(variable) == "variable(a, role=r, grad_fn=AddBackward0)"
    assert repr(variable) == "Variable(data='a', role='r', grad_fn=AddBackward0)"


def test_showing_does_not_wait(link):
    variable = Variable("a")
    link.registries.mark_pending([variable], "_pending_data")
    assert str(variable).startswith("variable(a")
    link.push("clear_step", variable_ids=[variable.variable_id])


def test_nodes_and_edges_show_their_names():
    node = Node("n", "AddBackward0")
    address = f"object at {id(node):#x}"
    assert str(node) == f"<AddBackward0 {address}>"
    assert repr(node) == f"<tellurio_sync.autodiff.function.AddBackward0 {address}>"
    edge = GradientEdge(node, 1)
    assert str(edge) == repr(edge) == f"(<AddBackward0 {address}>, 1)"
    assert str(GradientEdge(None, 0)) == "(None, 0)"
    assert node.next_functions == ()
    node.next_functions = (edge,)
    assert node.next_functions == (edge,)


def test_a_long_chain_of_results_is_freed_without_recursion(link):
    variable = Variable("a", requires_grad=True)
    for _ in range(20_000):
        result = received(Variable, link, None, "x", "", True)
        set_local(result, "_arguments", (variable,))
        variable = result
    del result, variable
