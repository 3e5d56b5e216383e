"""Which session an object belongs to, and when objects are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from tellurio_sync.backend.sessions import Sessions

from .conftest import RunningBackend
from .rpc_client import FAILSAFE, RpcClient, RpcError

Connect = Callable[..., RpcClient]
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def session_of(client: RpcClient) -> str:
    return str(client.greeting["result"]["session_id"])


def feedback(client: RpcClient) -> list[Any]:
    """What the backward model of this client's session says."""
    prompt = client.variable("Be brief.", role="prompt", requires_grad=True, parameter=True)
    output = client.run("ChatCompletion", client.model(lambda messages: "hi", "forward"), chat_of(prompt))
    client.backward(
        {"__variable__": True, "variable_id": output["variable_id"]}, client.variable("bad", role="feedback")
    )
    return client.gradients(prompt)


def chat_of(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": [prompt]}]


def saying(text: str) -> Callable[[list[dict[str, str]]], str]:
    return lambda messages: f'{{"variable_1": "{text}"}}'


class TestTheBackwardModel:
    def test_it_belongs_to_the_session(self, backend: RunningBackend, connect: Connect) -> None:
        """Else one program's questions go to another's endpoint, with its key and on its bill."""
        one, two = (connect(backend, X_Tellurio_Session="new") for _ in range(2))
        one.set_backward_model(one.model(saying("of one"), "backward"))
        two.set_backward_model(two.model(saying("of two"), "backward"))
        assert feedback(one) == ["of one"]
        assert feedback(two) == ["of two"]

    def test_a_session_without_one_does_not_use_anothers(self, backend: RunningBackend, connect: Connect) -> None:
        one, two = (connect(backend, X_Tellurio_Session="new") for _ in range(2))
        one.set_backward_model(one.model(saying("of one"), "backward"))
        with pytest.raises(RpcError) as caught:
            feedback(two)
        assert "No global model client set" in caught.value.text

    def test_clients_that_send_no_header_share_it_as_ever(self, backend: RunningBackend, connect: Connect) -> None:
        one = connect(backend)
        one.set_backward_model(one.model(saying("of the first login"), "backward"))
        two = connect(backend)
        two.functions["backward"] = saying("of the first login")
        assert session_of(two) != session_of(one)
        assert feedback(two) == ["of the first login"]


class TestObjects:
    def test_nobody_else_sees_them(self, backend: RunningBackend, connect: Connect) -> None:
        one, two, other = connect(backend, X_Tellurio_Session="new"), connect(backend, X_Tellurio_Session="new"), None
        own = one.variable("mine")
        other = connect(backend)
        for stranger in (two, other):
            with pytest.raises(RpcError) as caught:
                stranger.get(own)
            assert "not found" in caught.value.text
        assert one.get(own)["data"] == "mine"

    def test_a_reconnect_finds_them(self, backend: RunningBackend, connect: Connect) -> None:
        one = connect(backend, X_Tellurio_Session="new")
        own = one.variable("mine")
        one.set_backward_model(one.model(saying("still there"), "backward"))
        one.close()
        again = connect(backend, X_Tellurio_Session=session_of(one))
        assert session_of(again) == session_of(one)
        assert again.get(own)["data"] == "mine"
        again.functions["backward"] = saying("still there")
        assert feedback(again) == ["still there"]

    def test_a_session_that_nobody_knows_is_a_new_one(self, backend: RunningBackend, connect: Connect) -> None:
        client = connect(backend, X_Tellurio_Session="of-another-backend")
        assert session_of(client) != "of-another-backend"
        assert client.get(client.variable("x"))["data"] == "x"

    def test_they_are_forgotten_after_the_grace_time(
        self, start_backend: Callable[..., RunningBackend], connect: Connect
    ) -> None:
        backend = start_backend(session_grace=0.001)
        one = connect(backend, X_Tellurio_Session="new")
        one.variable("mine")
        one.close()
        for _ in range(1000):
            again = connect(backend, X_Tellurio_Session=session_of(one))
            again.close()
            if session_of(again) != session_of(one):
                return
        pytest.fail("the session was still known")


class TestTheGraceTime:
    def test_it_begins_when_the_last_connection_has_ended(self) -> None:
        async def scenario() -> None:
            sessions = Sessions(grace=0.0)
            session = sessions.join("new")
            assert sessions.join(session.session_id) is session
            sessions.leave(session)
            await asyncio.sleep(0)
            assert len(sessions) == 1
            sessions.leave(session)
            await until(lambda: not len(sessions))
            assert sessions.join(session.session_id) is not session

        run(scenario())

    def test_who_comes_back_in_it_ends_it(self) -> None:
        async def scenario() -> None:
            sessions = Sessions(grace=3600.0)
            session = sessions.join("new")
            sessions.leave(session)
            timer = session.expiry
            assert timer is not None
            assert sessions.join(session.session_id) is session
            assert timer.cancelled()
            assert session.expiry is None

        run(scenario())

    def test_what_others_share_ends_with_the_last_of_them(self) -> None:
        async def scenario() -> None:
            sessions = Sessions(grace=0.0)
            shared = sessions.join(None)
            assert sessions.join(None) is shared
            sessions.leave(shared)
            sessions.leave(shared)
            await until(lambda: not len(sessions))

        run(scenario())

    def test_no_timer_is_left_when_the_backend_stops(self) -> None:
        async def scenario() -> None:
            sessions = Sessions(grace=3600.0)
            session = sessions.join("new")
            sessions.leave(session)
            sessions.close()
            assert session.expiry is not None
            assert session.expiry.cancelled()
            assert len(sessions) == 0

        run(scenario())


async def until(is_reached: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not is_reached():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), FAILSAFE)


class TestAProposedId:
    ID = "0b4d2b1e-6f0c-4a70-9a53-3a1d8a6f1f10"

    def test_a_new_session_gets_it(self, backend: RunningBackend, connect: Connect) -> None:
        assert session_of(connect(backend, X_Tellurio_Session=f"new:{self.ID}")) == self.ID

    def test_a_second_try_finds_what_the_first_one_made(self, backend: RunningBackend, connect: Connect) -> None:
        """The greeting of the first one may have been lost."""
        for header in (f"new:{self.ID}", f"new:{self.ID}", self.ID):
            assert session_of(connect(backend, X_Tellurio_Session=header)) == self.ID

    @pytest.mark.parametrize("proposed", ["", "new", "0b4d2b1e", "x" * 300, "0b4d2b1e-6f0c-4a70-9a53-3a1d8a6f1f1g"])
    def test_what_is_no_id_gets_another_one(self, proposed: str, backend: RunningBackend, connect: Connect) -> None:
        found = {session_of(connect(backend, X_Tellurio_Session=f"new:{proposed}")) for _ in range(2)}
        assert len(found) == 2
        assert not found & {proposed, "new", "None"}

    def test_an_id_that_is_not_known_any_more_is_not_made_anew(self, backend: RunningBackend, connect: Connect) -> None:
        """A client that connects again must see that its objects are lost."""
        assert session_of(connect(backend, X_Tellurio_Session=self.ID)) != self.ID
