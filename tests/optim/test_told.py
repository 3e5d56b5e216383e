"""What a step tells the user besides its result."""

from __future__ import annotations

import warnings

import pytest

from tellurio_sync.model import CallableModel, Parameter, Variable
from tellurio_sync.optim import TGD
from tellurio_sync.optim.told import ParameterUnchanged, SamplesNotShown

from .test_tgd import answer_steps


def test_a_parameter_that_kept_its_data_is_named_at_the_line_that_made_the_step(link):
    parameter = Parameter("old", "prompt")
    messages = [{"role": "system", "content": [Variable("improve", "prompt")]}]
    optimizer = TGD([parameter], CallableModel(lambda messages: ""), messages)
    answer_steps(link, parameter)
    whole = link.answers["run_step"]
    link.answers["run_step"] = lambda params: {**whole(params), "told": ["The parameter keeps its data: it lost {x}."]}
    with pytest.warns(ParameterUnchanged, match="lost {x}") as caught:
        optimizer.step()
    assert [warning.filename for warning in caught] == [__file__]
    assert parameter._data == "new0", "the warning does not get into the way of the rest"


def test_samples_that_had_no_room_are_told(link):
    parameter = Parameter("old", "prompt")
    messages = [{"role": "system", "content": [Variable("improve", "prompt")]}]
    optimizer = TGD([parameter], CallableModel(lambda messages: ""), messages)
    answer_steps(link, parameter)
    whole = link.answers["run_step"]
    link.answers["run_step"] = lambda params: {**whole(params), "notes": ["3 samples were not shown."]}
    with pytest.warns(SamplesNotShown, match="3 samples"):
        optimizer.step()


@pytest.mark.parametrize("told", [None, "text", [1, None, {}], {}])
def test_what_other_servers_may_send_under_this_name_is_no_warning(link, told):
    parameter = Parameter("old", "prompt")
    messages = [{"role": "system", "content": [Variable("improve", "prompt")]}]
    optimizer = TGD([parameter], CallableModel(lambda messages: ""), messages)
    answer_steps(link, parameter)
    whole = link.answers["run_step"]
    link.answers["run_step"] = lambda params: {**whole(params), "told": told, "notes": told}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert parameter._data == "new0"
