"""What is replaced in afnio and put back: with a fake of the names, so that these tests need no afnio."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib import metadata

import pytest

import tellurio_sync.afnio
from tellurio_sync.afnio import AfnioVersionError, install, is_installed, uninstall
from tellurio_sync.afnio.bridge import PushClient
from tellurio_sync.afnio.patches import Patches
from tellurio_sync.afnio.pushes import Pushes
from tellurio_sync.afnio.trampoline import drive
from tellurio_sync.errors import ConnectionLost
from tests.afnio.fake_afnio import Original, modules

FAILSAFE = 30.0


@pytest.fixture
def registered():
    return {}


@pytest.fixture
def fake(monkeypatch, registered):
    made = modules(registered)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(metadata, "version", lambda name: "0.3.7")
    before = {name: dict(vars(module)) for name, module in made.items()}
    yield made
    uninstall()
    for name, module in made.items():
        assert dict(vars(module)) == before[name], f"{name} was not put back"


def manager(fake):
    return fake["afnio.tellurio._client_manager"]


def test_the_default_client_is_ours_and_uninstalling_puts_everything_back(fake):
    assert not is_installed()
    with install(ping_interval=5.0):
        assert is_installed()
        ws = manager(fake).TellurioWebSocketClient()
        assert isinstance(ws, Original)
        assert isinstance(ws.client, PushClient)
        assert ws.client._ping_interval == 5.0
        install()
        assert isinstance(ws, manager(fake).TellurioWebSocketClient), "installed twice"
    assert not is_installed()
    uninstall()


def test_options_that_the_client_does_not_take_are_refused(fake):
    with install(no_such_option=1), pytest.raises(TypeError, match="no_such_option"):
        manager(fake).TellurioWebSocketClient()


def test_suppression_belongs_to_a_thread(fake):
    with install():
        suppress = fake["afnio.tellurio"].suppress_variable_notifications
        is_suppressed = fake["afnio._variable"].is_variable_notify_suppressed
        seen = []
        with suppress():
            with suppress():
                pass
            thread = threading.Thread(target=lambda: seen.append(is_suppressed()))
            thread.start()
            thread.join(FAILSAFE)
            seen.append(is_suppressed())
        seen.append(is_suppressed())
        assert seen == [False, True, False]


def test_what_never_suspends_runs_in_the_caller_and_all_else_in_the_loop(fake):
    loop = fake["afnio.tellurio._eventloop"]._event_loop_thread
    login = fake["afnio.tellurio._auth"]._login

    async def of_a_user():
        return "by the user"

    with install():
        ws = manager(fake).TellurioWebSocketClient("ws://127.0.0.1", 1)
        ws.client.connect = lambda *arguments: {"session_id": "s", "by": threading.current_thread()}
        ws.client.call = lambda method, params, timeout: (method, params, timeout)
        assert loop.run(ws.connect(api_key="key"))["by"] is threading.current_thread()
        assert (ws.api_key, ws.connection) == ("key", ws.client)
        assert loop.run(ws.call("m", {"a": 1})) == ("m", {"a": 1}, None)
        assert loop.run(ws.call("m", {}, timeout=3)) == ("m", {}, 3)
        assert loop.run(login(None, ws, api_key="other")) == "logged in"
        assert ws.api_key == "other"
        loop.run(ws.close())
        assert ws.connection is None
        assert loop.ran == []
        assert loop.run(of_a_user()) == "by the loop"
        assert loop.run(login(None, Original())) == "by the loop"
        assert loop.ran == ["of_a_user", "_login"]


def test_an_open_connection_is_taken_over(fake, monkeypatch):
    former = Original("ws://127.0.0.1", 9, 7)
    drive(former.connect("the key"))
    connected = []
    monkeypatch.setattr(manager(fake), "_default_ws_client", former)
    monkeypatch.setattr(PushClient, "connect", lambda self, *arguments: connected.append(arguments))
    closed = []
    monkeypatch.setattr(
        fake["afnio.tellurio._eventloop"]._event_loop_thread, "run", lambda coroutine: closed.append(drive(coroutine))
    )
    with install():
        ours = manager(fake)._default_ws_client
        assert ours is not former
        assert (ours.base_url, ours.port, ours.client.default_timeout) == ("ws://127.0.0.1", 9, 7)
        assert connected == [("the key", 3, 5)]
        assert (closed, former.connection) == ([None], None)
    assert manager(fake)._default_ws_client is former
    assert (former.api_key, former.connection is not None) == ("the key", True)
    monkeypatch.undo()


def test_an_open_connection_stays_if_ours_cannot_be_opened(fake, monkeypatch):
    former = Original("ws://127.0.0.1", 9, 7)
    drive(former.connect("the key"))
    connection = former.connection
    monkeypatch.setattr(manager(fake), "_default_ws_client", former)
    tried = []

    def connect(self, *arguments):
        tried.append(self)
        raise ConnectionLost("refused", who="server", was_sent=False)

    monkeypatch.setattr(PushClient, "connect", connect)
    monkeypatch.setattr(fake["afnio.tellurio._eventloop"]._event_loop_thread, "run", drive)
    with pytest.raises(ConnectionLost):
        install()
    assert not is_installed()
    assert (manager(fake)._default_ws_client, former.connection) == (former, connection)
    assert len(tried) == 1
    monkeypatch.undo()


@pytest.mark.parametrize("fails", [False, True])
def test_uninstalling_leaves_afnio_connected_as_it_was(fake, monkeypatch, caplog, fails):
    monkeypatch.setattr(PushClient, "connect", lambda self, *arguments: {})
    monkeypatch.setattr(fake["afnio.tellurio._eventloop"]._event_loop_thread, "run", drive)
    install()
    manager(fake)._default_ws_client = ours = manager(fake).TellurioWebSocketClient("ws://127.0.0.1", 9, 7)
    drive(ours.connect("the key"))

    async def refuse(self, api_key, retries):
        raise RuntimeError("the key is refused")

    if fails:
        monkeypatch.setattr(Original, "connect", refuse)
    uninstall()
    own, manager(fake)._default_ws_client = manager(fake)._default_ws_client, None
    assert ours.client.state in ("new", "closed")
    if fails:
        assert own is None
        assert "could not connect again (RuntimeError)" in caplog.text
        assert "the key" not in caplog.text
    else:
        assert type(own) is Original
        assert (own.base_url, own.port, own.default_timeout, own.api_key) == ("ws://127.0.0.1", 9, 7, "the key")
        assert own.connection is not None
    monkeypatch.undo()


def test_a_client_made_meanwhile_is_dropped_by_uninstalling(fake):
    install()
    manager(fake)._default_ws_client = ours = manager(fake).TellurioWebSocketClient()
    uninstall()
    assert manager(fake)._default_ws_client is None
    assert ours.client.state in ("new", "closed")


# --- pushes ---------------------------------------------------------------------------------------------


def bridge(fake):
    return manager(fake).TellurioWebSocketClient("ws://127.0.0.1", 1)


@pytest.mark.parametrize(
    "name", ["create_variable", "update_variable", "create_node", "create_edge", "clear_backward", "clear_step"]
)
def test_pushes_go_to_the_handlers_of_afnio(fake, name):
    with install():
        ws = bridge(fake)
        assert getattr(ws.client, f"rpc_{name}")({"x": 1}) == {"message": "Ok"}
        assert ws.pushed == [(name, {"x": 1}, False)]


def test_a_heartbeat_counts_for_both(fake):
    with install():
        ws = bridge(fake)
        extended = []
        ws.client._peer = type("Peer", (), {"extend": lambda self, id_: extended.append(id_)})()
        ws.client.rpc_heartbeat({"id": "r-1"})
        ws.client._peer = None
        assert (extended, ws.pushed) == (["r-1"], [("heartbeat", {"id": "r-1"})])


def test_errors_of_handlers_have_the_form_of_the_protocol(fake):
    with install():
        ws = bridge(fake)
        with pytest.raises(Exception, match="Missing key") as missing:
            ws.client.rpc_append_grad({})
        assert (missing.value.code, missing.value.data) == (-32602, {"missing_key": "gradient"})
        with pytest.raises(Exception, match="Internal error") as internal:
            ws.client.rpc_update_model({})
        assert (internal.value.code, internal.value.data) == (-32603, {"exception": "no such model"})


def test_only_callables_run_on_workers(fake):
    with install():
        client = bridge(fake).client
        assert client.rpc_run_callable({})["message"] == "Ok"


# --- waiting --------------------------------------------------------------------------------------------


def test_reading_waits_for_the_push_that_ends_it(fake, registered):
    with install():
        ws = bridge(fake)
        variable = fake["afnio._variable"].Variable()
        variable._pending_data = True
        is_waiting = threading.Event()
        seen = []

        def wait():
            is_waiting.set()
            variable._wait_for_pending("_pending_data", timeout=FAILSAFE)
            seen.append(variable._pending_data)

        thread = threading.Thread(target=wait)
        thread.start()
        assert is_waiting.wait(FAILSAFE)
        variable._pending_data = False
        ws.client.rpc_clear_step({"variable_ids": ["v"]})
        thread.join(FAILSAFE)
        assert seen == [False]
        registered["copy"] = "the copy"
        for module, name in (("afnio.optim.optimizer", "_wait_for_variable"), ("afnio.optim.tgd", "waits")):
            assert getattr(fake[module], name)("copy") == "the copy"
            with pytest.raises(RuntimeError, match="variable_id=other"):
                getattr(fake[module], name)("other", timeout=0.001)
        variable._pending_data = True
        with pytest.raises(RuntimeError, match=r"^Timeout waiting for _pending_data to be cleared for variable_id=v$"):
            variable._wait_for_pending("_pending_data", timeout=0.001)


def test_a_lost_connection_ends_a_wait_at_once():
    pushes = Pushes()
    is_waiting = threading.Event()
    seen = []

    def is_over():
        is_waiting.set()
        return False

    def wait():
        try:
            pushes.wait(is_over, FAILSAFE)
        except ConnectionLost as exc:
            seen.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    assert is_waiting.wait(FAILSAFE)
    lost = ConnectionLost("cut", who="server", was_sent=False)
    pushes.connection_lost(lost)
    thread.join(FAILSAFE)
    assert [(exc.reason, exc.was_sent) for exc in seen] == [("cut", True)]
    assert seen[0] is not lost
    # Of an earlier loss nothing is left.
    assert not pushes.wait(lambda: False, 0.001)


# --- calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "was_sent", "tries"),
    [
        ("create_variable", True, 2),
        ("run_function", True, 2),
        ("run_step", False, 2),
        ("run_step", True, 1),
        ("run_backward", True, 1),
        ("append_grad", True, 1),
        ("add_param_group", True, 1),
    ],
)
def test_a_call_that_was_cut_off_is_made_once_more_where_that_does_no_harm(fake, method, was_sent, tries):
    with install():
        ws = bridge(fake)
        made = []

        def call(name, params, timeout):
            made.append(name)
            if len(made) == 1:
                raise ConnectionLost("cut", who="server", was_sent=was_sent)
            return "reply"

        ws.client.call = call
        if tries == 1:
            with pytest.raises(ConnectionLost):
                drive(ws.call(method, {}))
        else:
            assert drive(ws.call(method, {})) == "reply"
        assert made == [method] * tries


def test_without_a_connection_the_text_is_that_of_the_protocol(fake):
    with install(), pytest.raises(RuntimeError, match=r"^WebSocket is not connected$"):
        drive(bridge(fake).call("m", {}))


# --- the rest ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.2.9", "0.4.0", "1.0"])
def test_an_unknown_version_is_refused(fake, monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(AfnioVersionError, match=rf"afnio {version} .*0\.3\.x"):
        install()
    assert not is_installed()


def test_without_afnio_the_error_says_how_to_get_it():
    with pytest.raises(AfnioVersionError, match=r"pip install 'tellurio_sync\[afnio\]'"):
        install()


def test_a_failed_installation_leaves_nothing(fake, monkeypatch):
    monkeypatch.delattr(fake["afnio.tellurio._auth"], "_login")
    with pytest.raises(AttributeError):
        install()
    monkeypatch.undo()
    assert not is_installed()


def test_importing_does_not_import_afnio():
    code = "import sys, tellurio_sync.afnio; print('afnio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=FAILSAFE, check=True)
    assert done.stdout.strip() == "False"


def test_a_coroutine_that_suspends_is_named():
    import asyncio

    async def sleepy():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="sleepy waits for an event loop"):
        drive(sleepy())


def test_patches_restore_what_was_shadowed_and_what_was_not():
    class Owner:
        name = "of the class"

    owner, patches = Owner(), Patches()
    owner.other = 1
    patches.set(owner, "name", 2)
    patches.set(owner, "other", 3)
    patches.set(owner, "other", 4)
    assert (owner.name, owner.other) == (2, 4)
    patches.undo()
    assert (owner.name, owner.other, vars(owner)) == ("of the class", 1, {"other": 1})


def test_what_others_have_replaced_since_stays_as_they_left_it():
    class Owner:
        name = "of the class"

    shadowed, own, removed, patches = Owner(), Owner(), Owner(), Patches()
    own.name = removed.name = 1
    for owner in (shadowed, own, removed):
        patches.set(owner, "name", 2)
    shadowed.name = own.name = "of another"
    del removed.name
    patches.undo()
    assert (vars(shadowed), vars(own), vars(removed)) == ({"name": "of another"}, {"name": "of another"}, {})


def test_a_program_is_run_over_our_client(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("name = 'beside'")
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, beside, tellurio_sync.afnio\n"
        "print(__name__, sys.argv[1:], beside.name, tellurio_sync.afnio.is_installed())\n"
        "sys.exit(3)\n"
    )
    from tellurio_sync.afnio.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([str(script), "--an", "argument"])
    assert ended.value.code == 3
    assert capsys.readouterr().out == "__main__ ['--an', 'argument'] beside True\n"
    assert main([str(tmp_path / "absent.py")]) == 2
    assert "there is no program" in capsys.readouterr().err
    assert main([]) == main(["-m"]) == main(["convert"]) == 2
    assert capsys.readouterr().out == ""
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"python -m tellurio_sync.afnio {way}" in usage for way in ("SCRIPT", "-m MODULE", "convert OLD NEW"))
    monkeypatch.setitem(sys.modules, "beside", None)


def test_without_afnio_a_program_is_not_begun(tmp_path, capsys):
    from tellurio_sync.afnio.__main__ import main

    (tmp_path / "program.py").write_text("raise AssertionError")
    assert main([str(tmp_path / "program.py")]) == 1
    assert "afnio is not installed" in capsys.readouterr().err


def test_a_notebook_loads_it_as_an_extension(fake):
    tellurio_sync.afnio.load_ipython_extension(object())
    assert is_installed()
    tellurio_sync.afnio.unload_ipython_extension(object())
    assert not is_installed()


def test_a_checkpoint_of_afnio_is_converted(fake, monkeypatch, tmp_path, capsys):
    import tellurio_sync as te
    from tellurio_sync.afnio.__main__ import main

    class Variable:
        def __init__(self, data):
            self.data, self.role, self.requires_grad = data, "prompt", True

    class Parameter(Variable):
        pass

    shared = Parameter("learnt")
    content = {
        "prompt": shared,
        "chat": [{"role": "system", "content": [shared, Variable("more")]}],
        "lm": {"class_type": "OpenAI", "provider": "openai", "usage": {}},
        "config": {"model": "m", "function": print},
        "state": (1, [2.5, None]),
    }
    source, target = tmp_path / "old.hf", tmp_path / "new.hf"
    source.write_bytes(b"whatever afnio reads")
    monkeypatch.setattr(fake["afnio"], "load", lambda path: content, raising=False)
    assert main(["convert", str(source), str(target)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "left out, the program makes it: lm",
        "left out, the program makes it: config.function",
        f"written: {target}",
    ]
    loaded = te.load(target)
    assert type(loaded["prompt"]) is te.Parameter
    assert loaded["prompt"].data == "learnt"
    assert loaded["chat"][0]["content"][0] is loaded["prompt"]
    assert type(loaded["chat"][0]["content"][1]) is te.Variable
    assert (loaded["config"], loaded["state"]) == ({"model": "m"}, (1, [2.5, None]))
    # Nothing is overwritten, and mistakes are named.
    assert main(["convert", str(source), str(target)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "absent.hf"), str(tmp_path / "x.hf")]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert main(["convert", str(source)]) == 2

    def broken(path):
        raise RuntimeError("not mine")

    monkeypatch.setattr(fake["afnio"], "load", broken)
    assert main(["convert", str(source), str(tmp_path / "x.hf")]) == 1
    assert "cannot be read by afnio: RuntimeError: not mine" in capsys.readouterr().err
    monkeypatch.delattr(fake["afnio"], "load")
