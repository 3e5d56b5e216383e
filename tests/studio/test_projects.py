from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
import responses

from tellurio_sync.errors import HttpError, HttpStatusError, UsageError
from tellurio_sync.studio import Project, create_project, delete_project, get_project
from tellurio_sync.studio.projects import get_or_create_project, slug_of

PROJECTS = "http://127.0.0.1:8000/api/v0/acme/projects/"
ANSWER = {
    "uuid": "p1",
    "display_name": "My Project",
    "slug": "my-project",
    "date_created": "2025-01-02T03:04:05Z",
    "last_run_date": None,
    "visibility": "TEAM",
}
PART = {"role": "OWNER", "org_uuid": "o1", "org_display_name": "Acme", "org_slug": "acme"}


@responses.activate
def test_a_project_is_read(rest):
    responses.add("GET", f"{PROJECTS}my-project/", json=ANSWER)
    assert get_project(rest, "acme", "my-project") == Project(
        uuid="p1",
        display_name="My Project",
        slug="my-project",
        namespace_slug="acme",
        visibility="TEAM",
        date_created=datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    )


@responses.activate
def test_an_unknown_one_is_none(rest):
    responses.add("GET", f"{PROJECTS}x/", status=404)
    assert get_project(rest, "acme", "x") is None


@responses.activate
def test_one_is_created_and_deleted(rest):
    responses.add("POST", PROJECTS, json=ANSWER | PART, status=201)
    responses.add("DELETE", f"{PROJECTS}my-project/", status=204)
    project = create_project(rest, "acme", "My Project", "PUBLIC")
    assert (project.role, project.org_uuid, project.org_display_name, project.org_slug) == tuple(PART.values())
    assert json.loads(responses.calls[0].request.body) == {"display_name": "My Project", "visibility": "PUBLIC"}
    delete_project(rest, "acme", project.slug)


@responses.activate
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({key: value for key, value in ANSWER.items() if key != "uuid"}, "without 'uuid'"),
        (ANSWER | {"date_created": "soon"}, "in an unknown form"),
        (ANSWER | {"date_created": 7}, "in an unknown form"),
    ],
)
def test_an_answer_that_is_no_project(rest, answer, text):
    responses.add("GET", f"{PROJECTS}my-project/", json=answer)
    with pytest.raises(HttpError, match=text):
        get_project(rest, "acme", "my-project")


@responses.activate
def test_get_or_create_takes_the_one_there_is(rest):
    responses.add("GET", f"{PROJECTS}my-project/", json=ANSWER)
    assert get_or_create_project(rest, "acme", "My Project", "RESTRICTED").uuid == "p1"


@responses.activate
@pytest.mark.parametrize(
    ("there", "asked_for", "is_the_same"),
    [
        ("C", "C", True),
        ("C", "c", True),
        ("C++", "c", True),
        ("C", "C++", False),
        ("C", "C#", False),
        ("C++", "C#", False),
    ],
)
def test_names_that_differ_in_more_than_case_are_not_taken_for_one_project(there, asked_for, is_the_same, rest):
    """Servers give "C", "C++" and "C#" one address; "c" is that address itself."""
    responses.add("GET", f"{PROJECTS}c/", json={**ANSWER, "display_name": there, "slug": "c"})
    if is_the_same:
        assert get_or_create_project(rest, "acme", asked_for, "RESTRICTED").display_name == there
        return
    with pytest.raises(UsageError) as caught:
        get_or_create_project(rest, "acme", asked_for, "RESTRICTED")
    assert repr(there) in str(caught.value)
    assert repr(asked_for) in str(caught.value)


@responses.activate
def test_get_or_create_creates(rest):
    responses.add("GET", f"{PROJECTS}my-project/", status=404)
    responses.add("POST", PROJECTS, json=ANSWER, status=201)
    assert get_or_create_project(rest, "acme", "My Project", "RESTRICTED").uuid == "p1"
    assert json.loads(responses.calls[1].request.body)["visibility"] == "RESTRICTED"


@responses.activate
def test_another_process_was_faster(rest):
    responses.add("GET", f"{PROJECTS}my-project/", status=404)
    responses.add("POST", PROJECTS, json={"detail": "exists"}, status=409)
    responses.add("GET", f"{PROJECTS}my-project/", json=ANSWER)
    assert get_or_create_project(rest, "acme", "My Project", "RESTRICTED").uuid == "p1"


@responses.activate
@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(("username", "text"), [("me", "you are logged in as 'me'"), (None, "name of your account")])
def test_an_unknown_namespace_is_named(rest, status, username, text):
    responses.add("GET", f"{PROJECTS}my-project/", status=404)
    responses.add("POST", PROJECTS, json={"detail": "nope"}, status=status)
    with pytest.raises(HttpStatusError, match=f"The namespace 'acme' does not exist .*{text}.*nope") as caught:
        get_or_create_project(rest, "acme", "My Project", "RESTRICTED", username)
    assert caught.value.status == status


@responses.activate
def test_another_refusal_is_passed_on(rest):
    responses.add("GET", f"{PROJECTS}my-project/", status=404)
    responses.add("POST", PROJECTS, json={"detail": "bad visibility"}, status=400)
    with pytest.raises(HttpStatusError, match="bad visibility"):
        get_or_create_project(rest, "acme", "My Project", "SECRET")


@pytest.mark.parametrize(
    ("name", "slug"), [("Test Project", "test-project"), ("Test-Project", "test-project"), ("Über 2", "uber-2")]
)
def test_slugs(name, slug):
    assert slug_of(name) == slug


def test_a_name_of_nothing():
    with pytest.raises(ValueError, match="letters or digits"):
        slug_of(" !? ")
