"""The backend's own limits do not lock up models that use models: none is held while a function of the client runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tellurio_sync as te
from tellurio_sync.backend.options import BackendOptions

from ..backend.conftest import RunningBackend
from ..backend.lm_endpoint import LmEndpoint
from ..conftest import FAILSAFE
from .conftest import KEY


def test_agents_that_ask_an_endpoint_which_takes_one_at_a_time(tmp_path: Path) -> None:
    """One question at a time for the model, and for the whole backend; sixteen agents at once, on two levels."""
    options = BackendOptions(api_key=KEY, data_dir=tmp_path / "data", lm_max_concurrency=1)
    backend = RunningBackend(options)
    ports: dict[str, Any] = {"http_port": backend.port, "ws_port": backend.port}
    try:
        with (
            LmEndpoint(lambda request: request["messages"][-1]["content"].upper()) as endpoint,
            te.Session(http_base_url="http://127.0.0.1", ws_base_url="ws://127.0.0.1", **ports) as session,
        ):
            session.login(KEY)
            with session.init(None, "Nested"):
                work(session, te.OpenAI(base_url=endpoint.url, api_key="none", max_concurrency=1))
            assert len(endpoint.requests) == 16
    finally:
        backend.stop()


def work(session: te.Session, lm: te.OpenAI) -> None:
    def ask(client: Any, mails: str | list[str], **arguments: Any) -> Any:
        chat = [{"role": "user", "content": [te.Variable("{mail}", role="mail")]}]
        return te.functional.chat_completion(client, chat, inputs={"mail": mails}, **arguments).data

    inner = te.CallableModel(lambda messages, **_: ask(lm, messages[-1]["content"], model="m"))
    outer = te.CallableModel(lambda messages, **_: ask(inner, messages[-1]["content"]))

    def batch(number: int) -> Any:
        with session.use():
            return ask(outer, [f"mail {number} {i}" for i in range(8)])

    with ThreadPoolExecutor(2) as pool:
        answers = [future.result(FAILSAFE) for future in [pool.submit(batch, number) for number in range(2)]]
    assert answers == [[f"MAIL {number} {i}" for i in range(8)] for number in range(2)]
