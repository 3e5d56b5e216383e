"""What the server pushed for a call that was cut off is taken back to how it was before the call."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.errors import ConnectionLost
from tellurio_sync.model import CallableModel, Parameter
from tellurio_sync.optim import TGD

from ..model.fake_link import FakeLink, lose
from .conftest import link

__all__ = ["link"]


@pytest.mark.parametrize("pushes", [1, 2, 3])
def test_several_pushes_to_one_attribute_are_taken_back_to_its_first_value(link: FakeLink, pushes: int) -> None:
    """The newest first: each brings back what was there before it."""
    parameter = Parameter("old")
    optimizer = TGD([parameter], CallableModel(lambda messages: ""))

    def cut(params: Any) -> Any:
        for number in range(pushes):
            link.push("update_variable", variable_id=parameter.variable_id, field="data", value=f"new {number}")
            link.push("update_variable", variable_id=parameter.variable_id, field="role", value=f"role {number}")
        raise lose()

    role = parameter.role
    link.answers["run_step"] = cut
    with pytest.raises(ConnectionLost):
        optimizer.step()
    assert (parameter.data, parameter.role) == ("old", role)
