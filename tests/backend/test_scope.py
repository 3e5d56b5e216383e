from __future__ import annotations

from typing import Any

from tellurio_sync.backend.lm import LanguageModels
from tellurio_sync.backend.objects import Objects
from tellurio_sync.backend.scope import Scope


class NoClient:
    """A client that is never called."""

    def push(self, method: str, params: dict[str, Any]) -> None:
        raise AssertionError(method)

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        raise AssertionError(method)


def test_many_ids_leave_in_several_pushes_each_far_below_the_limit() -> None:
    scope = Scope(Objects(), NoClient(), LanguageModels())
    ids = [f"{i:036}" for i in range(2500)]
    scope.push_ids_later("clear_backward", ids)
    found = [push.params["variable_ids"] for push in scope.late_pushes]
    assert [len(part) for part in found] == [1000, 1000, 500]
    assert [one for part in found for one in part] == ids
