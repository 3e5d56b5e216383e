"""A company's proxy that wants a password and shows certificates of its own: one setting is enough for all channels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from .backend_process import KEY
from .company_proxy import ANSWER, MODEL, PASSWORD, STUDIO, OpeningProxy, StudioBehindProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioBehindProxy]:
    with StudioBehindProxy(tmp_path_factory.mktemp("studio")) as made:
        yield made


@pytest.fixture
def proxy(studio: StudioBehindProxy) -> Iterator[OpeningProxy]:
    with OpeningProxy(studio) as made:
        yield made


@pytest.fixture
def bundle(proxy: OpeningProxy, tmp_path: Path) -> str:
    proxy.bundle.write_to_path(str(tmp_path / "company.pem"))
    return str(tmp_path / "company.pem")


@pytest.mark.parametrize("names", [("HTTPS_PROXY", "SSL_CERT_FILE"), ("https_proxy", "REQUESTS_CA_BUNDLE")])
def test_a_login_a_run_and_a_question_need_one_setting(
    names: tuple[str, str], studio: StudioBehindProxy, proxy: OpeningProxy, bundle: str
) -> None:
    done = studio.run(**dict(zip(names, (proxy.address, bundle))))
    assert done.stderr == ""
    assert json.loads(done.stdout) == ANSWER
    assert {*proxy.opened} == {STUDIO, MODEL}
    assert proxy.opened.count(STUDIO) >= 2, "REST and the WebSocket"
    assert proxy.refused == 0


@pytest.mark.parametrize(
    ("is_trusted", "password", "says"),
    [
        (False, None, "certificate verify failed: unable to get local issuer certificate .*SSL_CERT_FILE=/path/to/ca"),
        (True, "hunter2", "407 Proxy Authentication Required.*HTTPS_PROXY=http://USER:PASSWORD@"),
    ],
    ids=["its authority is not trusted", "a wrong password"],
)
def test_what_is_missing_is_said_with_the_name_of_the_proxy_and_without_the_password(
    is_trusted: bool, password: str | None, says: str, studio: StudioBehindProxy, proxy: OpeningProxy, bundle: str
) -> None:
    address = proxy.address if password is None else proxy.address.replace(quote(PASSWORD, safe=""), password)
    done = studio.run(HTTPS_PROXY=address, **({"SSL_CERT_FILE": bundle} if is_trusted else {}))
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(rf"through the proxy http://127\.0\.0\.1:{proxy.port}: .*{says}", last), last
    for secret in (PASSWORD, quote(PASSWORD, safe=""), password or KEY, KEY):
        assert secret not in done.stderr
