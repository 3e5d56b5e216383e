"""Protocol §J from the server's side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from .conftest import KEY, RunningBackend


class Rest:
    """Requests with the key, relative to the API's root."""

    def __init__(self, backend: RunningBackend) -> None:
        self._root = f"{backend.http_url}/api/v0"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Api-Key {KEY}"

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        if body is not None:
            options["json"] = body
        return self._session.request(method, self._root + path, timeout=30, **options)

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def rest(backend: RunningBackend) -> Iterator[Rest]:
    found = Rest(backend)
    yield found
    found.close()


@pytest.fixture
def project(rest: Rest) -> str:
    made = rest("POST", "/local/projects/", {"display_name": "Test Project", "visibility": "TEAM"})
    assert made.status_code == 201
    return "/local/projects/test-project/"


def new_run(rest: Rest, project: str, **body: Any) -> dict[str, Any]:
    made = rest("POST", f"{project}runs/", body)
    assert made.status_code == 201, made.text
    run: dict[str, Any] = made.json()
    return run


def test_verify_key(rest: Rest) -> None:
    assert rest("GET", "/verify-api-key/").json() == {"email": "local@localhost", "username": "local"}


@pytest.mark.parametrize("sent", ["Api-Key wrong", KEY, "Api-Key é", "", None])
@pytest.mark.parametrize("path", ["/verify-api-key/", "/local/projects/x/", "/nothing/"])
def test_without_the_key_nothing_is_told(rest: Rest, sent: str | None, path: str) -> None:
    reply = rest("GET", path, headers={"Authorization": sent})
    assert reply.status_code == 401
    assert reply.json() == {"detail": "Invalid API key."}


def test_create_and_get_a_project(rest: Rest) -> None:
    made = rest("POST", "/local/projects/", {"display_name": "Test Project"})
    assert made.status_code == 201
    body = made.json()
    assert (body["slug"], body["visibility"], body["role"]) == ("test-project", "TEAM", "OWNER")
    assert all(body[key] for key in ("org_uuid", "org_display_name", "org_slug"))
    found = rest("GET", "/local/projects/test-project/").json()
    assert found == {key: body[key] for key in found}
    assert found["last_run_date"] is None
    assert not {"role", "org_uuid", "org_slug"} & set(found)
    assert datetime.fromisoformat(found["date_created"]).tzinfo is not None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("POST", "/nobody/projects/", {"display_name": "x"}, 404, "no namespace 'nobody'"),
        ("GET", "/nobody/projects/x/", None, 404, "no namespace 'nobody'"),
        ("DELETE", "/nobody/projects/x/", None, 404, "no namespace"),
        ("GET", "/local/projects/missing/", None, 404, "no project 'missing'"),
        ("DELETE", "/local/projects/missing/", None, 404, "no project"),
        ("POST", "/local/projects/missing/runs/", {}, 404, "no project"),
        (
            "POST",
            "/local/projects/",
            {"display_name": "x", "visibility": "INVALID_VISIBILITY"},
            400,
            "RESTRICTED, TEAM",
        ),
        ("POST", "/local/projects/", {"display_name": " "}, 400, "`display_name`"),
        ("POST", "/local/projects/", {"display_name": "!"}, 400, "letter or digit"),
        ("POST", "/local/projects/", {"display_name": 3}, 400, "must be a text"),
        ("POST", "/local/projects/", {"display_name": "x" * 201}, 400, "over 200"),
        ("POST", "/local/projects/", [], 400, "JSON object"),
        ("POST", "/local/projects/", {"display_name": "Test-Project"}, 409, "already"),
        ("POST", "/local/projects/test-project/runs/", {"status": "DONE"}, 400, "RUNNING, COMPLETED"),
        ("PATCH", "/local/projects/test-project/runs/x/", {"status": "FAILED"}, 404, "no run 'x'"),
        ("GET", "/local/projects/test-project/runs/x/metrics/", None, 404, "no run 'x'"),
    ],
)
def test_refusals(rest: Rest, project: str, method: str, path: str, body: Any, status: int, detail: str) -> None:
    reply = rest(method, path, body)
    assert reply.status_code == status
    assert detail in reply.json()["detail"]


def test_a_body_that_is_no_json(rest: Rest) -> None:
    assert rest("POST", "/local/projects/", data="{").status_code == 400


def test_the_life_of_a_run(rest: Rest, project: str) -> None:
    run = new_run(rest, project, name="my run", description="why")
    assert (run["name"], run["description"], run["status"]) == ("my run", "why", "RUNNING")
    assert (run["project"]["slug"], run["user"]["username"], run["user"]["slug"]) == ("test-project", "local", "local")
    for _ in range(2):
        reply = rest("PATCH", f"{project}runs/{run['uuid']}/", {"status": "COMPLETED"})
        assert reply.status_code == 200
        changed = reply.json()
        assert changed["status"] == "COMPLETED"
        assert changed["date_updated"] >= changed["date_created"] == run["date_created"]
    (listed,) = rest("GET", f"{project}runs/").json()
    assert (listed["uuid"], listed["status"]) == (run["uuid"], "COMPLETED")
    assert rest("GET", project).json()["last_run_date"] == run["date_created"]


def test_run_names(rest: Rest, project: str) -> None:
    names = [new_run(rest, project, name=name)["name"] for name in ("a", "a", "a_1", "a")]
    assert names == ["a", "a_1", "a_1_1", "a_2"]
    adjective, noun, number = new_run(rest, project)["name"].split("_")
    assert adjective.isalpha()
    assert noun.isalpha()
    assert number.isdigit()


def test_metrics(rest: Rest, project: str) -> None:
    run = new_run(rest, project)
    path = f"{project}runs/{run['uuid']}/metrics/"
    bodies: list[dict[str, Any]] = [
        {"name": "loss", "value": 0.5},
        {"name": "loss", "value": 0.25},
        {"name": "loss", "value": 0.1, "step": 7},
        {"name": "loss", "value": 0},
        {"name": "note", "value": {"any": ["JSON", None]}},
    ]
    for body in bodies:
        assert rest("POST", path, body).status_code == 201
    found = rest("GET", path).json()
    assert [(metric["name"], metric["value"]) for metric in found] == [(body["name"], body["value"]) for body in bodies]
    assert [metric["step"] for metric in found] == [0, 1, 7, 8, 0]


@pytest.mark.parametrize(
    "body",
    [{"name": "x"}, {"value": 1}, {"name": "x", "value": 1, "step": -1}, {"name": "x", "value": 1, "step": 1.5}],
)
def test_bad_metrics(rest: Rest, project: str, body: dict[str, Any]) -> None:
    run = new_run(rest, project)
    assert rest("POST", f"{project}runs/{run['uuid']}/metrics/", body).status_code == 400


@pytest.mark.parametrize(("value", "said"), [("NaN", "NaN is not JSON"), ("1e999", "1e999 is too large")])
def test_what_is_no_number_is_refused(rest: Rest, project: str, value: str, said: str) -> None:
    run = new_run(rest, project)
    reply = rest("POST", f"{project}runs/{run['uuid']}/metrics/", data=f'{{"name": "x", "value": {value}}}')
    assert reply.status_code == 400
    assert said in reply.json()["detail"]


def test_delete_a_project_with_runs(rest: Rest, project: str) -> None:
    run = new_run(rest, project)
    rest("POST", f"{project}runs/{run['uuid']}/metrics/", {"name": "x", "value": 1})
    assert rest("DELETE", project).status_code == 204
    assert rest("GET", project).status_code == 404


def test_records_survive_a_restart(start_backend: Callable[..., RunningBackend]) -> None:
    first = start_backend(namespaces=("local", "my-org"))
    rest = Rest(first)
    made = rest("POST", "/my-org/projects/", {"display_name": "P"})
    assert made.status_code == 201
    rest.close()
    first.stop()
    rest = Rest(start_backend(namespaces=("my-org",)))
    assert rest("GET", "/my-org/projects/p/").json()["uuid"] == made.json()["uuid"]
    rest.close()
