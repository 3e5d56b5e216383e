"""A backend that others than this machine can reach: encrypted, with a strong key, by names that are allowed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import trustme

import tellurio_sync as te
from tellurio_sync.backend.options import BackendOptions, arguments_parser
from tellurio_sync.errors import BackendError
from tellurio_sync.leash import find_backend
from tellurio_sync.local import default_local_backend

from .conftest import KEY, RunningBackend

Start = Callable[..., RunningBackend]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    issued.private_key_pem.write_to_path(str(files["tls_key"]))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(files["tls_cert"]), append=True)
    return files


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_all_of_it_is_encrypted(
    start_backend: Start, certificate: dict[str, Path], trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    backend = start_backend(**certificate)
    address = {"http_base_url": "https://127.0.0.1", "ws_base_url": "wss://127.0.0.1"}
    ports = {"http_port": backend.port, "ws_port": backend.port}
    with te.Session(**address, **ports, ssl_context=trusting) as session:  # type: ignore[arg-type]
        session.login(KEY)
        with session.init(None, "P") as run:
            run.log("loss", 1.0)
        assert [row["value"] for row in run.metrics()] == [1.0]
        assert session.client.call("get_variable", {"variable_id": "x", "run_uuid": run.uuid})["error"]
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{backend.port}/", timeout=30)


def test_a_program_with_the_same_data_is_told_how_to_reach_it(
    start_backend: Start, certificate: dict[str, Path], tmp_path: Path
) -> None:
    backend = start_backend(**certificate)
    with pytest.raises(BackendError, match="reached by TLS only"):
        find_backend(tmp_path / "data")
    with pytest.raises(BackendError, match=f"https://127.0.0.1:{backend.port}"):
        default_local_backend(data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("cert.pem", "absent.pem", "No such file"),
        ("absent.pem", None, "No such file"),
        ("key.pem", None, "cannot be used"),
        ("cert.pem", None, "cannot be used"),
        (None, "key.pem", "--tls-key needs --tls-cert"),
    ],
)
def test_a_certificate_that_cannot_be_used(
    cert: str | None, key: str | None, says: str, start_backend: Start, certificate: dict[str, Path], tmp_path: Path
) -> None:
    files = {"tls_cert": cert and tmp_path / cert, "tls_key": key and tmp_path / key}
    with pytest.raises(BackendError, match=says):
        start_backend(**files)


def test_beyond_this_machine_a_short_key_is_refused(start_backend: Start) -> None:
    with pytest.raises(BackendError, match="at least 16 characters"):
        start_backend(host="0.0.0.0", api_key="x" * 15)
    start_backend(host="127.0.0.1", api_key="x")


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_beyond_this_machine_what_is_not_encrypted_is_said(
    is_encrypted: bool, start_backend: Start, certificate: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    start_backend(host="0.0.0.0", **(certificate if is_encrypted else {}))
    assert ("everybody on the way can read the key" in caplog.text) is not is_encrypted


@pytest.mark.parametrize(
    ("options", "host", "is_served"),
    [
        ({}, "127.0.0.1", True),
        ({}, "hub.example", False),
        ({"allow_hosts": ("Hub.example",)}, "hub.example", True),
        ({"allow_hosts": ("hub.example",)}, "HUB.example:8443", True),
        ({"allow_hosts": ("hub.example",)}, "localhost", True),
        ({"allow_hosts": ("hub.example",)}, "evil.example", False),
        ({"host": "0.0.0.0"}, "any.example", True),
        ({"host": "0.0.0.0", "allow_hosts": ("hub.example",)}, "any.example", False),
        ({"host": "0.0.0.0", "allow_hosts": ("hub.example",)}, "hub.example", True),
    ],
)
def test_by_which_names_a_browser_may_reach_the_pages(
    options: dict[str, object], host: str, is_served: bool, start_backend: Start
) -> None:
    backend = start_backend(**options)
    answer = requests.get(f"http://127.0.0.1:{backend.port}/", headers={"Host": host}, timeout=30)
    assert (answer.status_code in (200, 401)) is is_served, answer.status_code


def parse(*arguments: str) -> BackendOptions:
    return BackendOptions.from_args(arguments_parser("backend").parse_args(arguments))


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    for name in ("own", "lm"):
        (tmp_path / name).write_text(f"te-{name}-key\n")
    options = parse("--api-key-file", str(tmp_path / "own"), "--lm-api-key-file", str(tmp_path / "lm"))
    assert (options.api_key, options.lm_api_key) == ("te-own-key", "te-lm-key")
    assert "te-" not in repr(options)


@pytest.mark.parametrize("content", ["", " \n", "a\nb"])
def test_a_file_that_holds_no_key(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(SystemExit):
        parse("--api-key-file", str(tmp_path / "key"))
    assert "must hold one key on one line" in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--api-key-file", "/no/such/file")
    assert "No such file or directory: /no/such/file" in capsys.readouterr().err


def test_the_options_for_it() -> None:
    options = parse("--tls-cert", "a", "--tls-key", "b", "--allow-host", "x.example", "--allow-host", "y.example")
    assert (options.tls_cert, options.tls_key) == (Path("a"), Path("b"))
    assert options.allow_hosts == ("x.example", "y.example")
