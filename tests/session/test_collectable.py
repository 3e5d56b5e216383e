"""A session that was closed leaves nothing behind in this process: services and test suites make thousands."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import tellurio_sync as te

from ..backend.scripted import answer_like_a_model
from ..conftest import wait_until
from .conftest import KEY, MakeSession


def test_it_is_collected_with_all_it_held(make_session: MakeSession) -> None:
    """If its run is finished: an unfinished one is looked after until the process ends."""
    held = used_up(make_session)

    def left() -> list[str]:
        gc.collect()
        return [kind for kind, one in held if one() is not None]

    # A thread that is just ending may hold one of them for a moment.
    wait_until(lambda: not left(), "something is kept")


def used_up(make_session: MakeSession) -> list[tuple[str, weakref.ref[Any]]]:
    session = make_session()
    session.login(KEY)
    with session.use():
        run = session.init(None, "Collected")
        model = te.CallableModel(lambda messages, **arguments: answer_like_a_model(messages))
        te.set_backward_model_client(model)
        prompt = te.Parameter("p", role="prompt")
        optimizer = te.TGD([prompt], model_client=model)
        answer = te.functional.chat_completion(model, [{"role": "user", "content": [prompt]}])
        answer.backward(te.Variable("bad", role="feedback"))
        optimizer.step()
        run.log("accuracy", 1.0)
        run.finish()
    session.close()
    make_session.forget(session)  # type: ignore[attr-defined]
    client = session.client
    kept = {"session": session, "registries": session.registries, "client": client, "peer": client._peer, "run": run}
    return [(kind, weakref.ref(one)) for kind, one in kept.items()]
