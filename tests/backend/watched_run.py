"""A run as a client makes it, whose pages are looked at; and the browser's side of looking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from tellurio_sync.backend.page.access import Access
from tellurio_sync.journal.format import MAGIC, Encoder

from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE, RpcClient

TOKEN = Access("127.0.0.1", KEY).token


class WatchedRun:
    """A new run, with REST and a connection of its own."""

    def __init__(self, backend: RunningBackend, project: str = "My project", **body: Any) -> None:
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["Authorization"] = f"Api-Key {KEY}"
        self._projects = f"{backend.http_url}/api/v0/local/projects/"
        answer = self._http.post(self._projects, json={"display_name": project}, timeout=FAILSAFE)
        # A second run of the project finds it there; by the same rule, its slug is that of the name.
        assert answer.status_code in (201, 409)
        slug = answer.json()["slug"] if answer.status_code == 201 else project.lower().replace(" ", "-")
        self._runs = f"{self._projects}{slug}/runs/"
        run = self._http.post(self._runs, json=body, timeout=FAILSAFE).json()
        self.uuid: str = run["uuid"]
        self.project_path = f"/local/projects/{slug}/"
        self.path = f"{self.project_path}runs/{self.uuid}/"
        self.rpc = _ClientOfRun(backend.ws_url, KEY)
        self.rpc.run_uuid = self.uuid
        self._improved = ""
        self._optimizers: dict[str, str] = {}

    def close(self) -> None:
        self.rpc.close()
        self._http.close()

    def another(self, **body: Any) -> None:
        """One more run of the project, which nobody works in."""
        assert self._http.post(self._runs, json=body, timeout=FAILSAFE).status_code == 201

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        body = {"name": name, "value": value, **({} if step is None else {"step": step})}
        answer = self._http.post(f"{self._runs}{self.uuid}/metrics/", json=body, timeout=FAILSAFE)
        assert answer.status_code == 201, answer.text

    def log_all(self, name: str, values: Sequence[float]) -> None:
        """Log values, NaN and infinities among them, by a journal."""
        encoder, data = Encoder(), MAGIC
        for step, value in enumerate(values):
            data += encoder.number(name, value, step)
            encoder.written()
        url = f"{self._runs}{self.uuid}/journal/w/"
        answer = self._http.post(url, params={"position": 0}, data=data, timeout=FAILSAFE)
        assert answer.status_code == 200, answer.text

    def finish(self, status: str = "COMPLETED") -> None:
        self._http.patch(f"{self._runs}{self.uuid}/", json={"status": status}, timeout=FAILSAFE)

    def parameter(self, data: Any, role: str) -> dict[str, Any]:
        return self.rpc.variable(data, role, requires_grad=True, parameter=True)

    def step(self, parameter: dict[str, Any], improved: str) -> None:
        """An optimizer's step after which the parameter holds ``improved``."""
        self._improved = improved
        variable_id = parameter["variable_id"]
        if variable_id not in self._optimizers:
            model = self.rpc.model(lambda messages: f"<IMPROVED>{self._improved}</IMPROVED>")
            made = self.rpc.call(
                "create_optimizer", optimizer_name="TGD", params=[parameter], defaults={"model_client": model}
            )
            self._optimizers[variable_id] = made["optimizer_id"]
        gradient = self.rpc.variable("Do better.", "feedback")
        self.rpc.call("append_grad", variable_id=variable_id, gradient=gradient)
        self.rpc.call("run_step", optimizer_id=self._optimizers[variable_id])
        self.rpc.until("clear_step")


class _ClientOfRun(RpcClient):
    """Names a run in all its calls."""

    run_uuid = ""

    def send_json(self, message: Any) -> None:
        if isinstance(message, dict) and "params" in message:
            message = {**message, "params": {**message["params"], "run_uuid": self.run_uuid}}
        super().send_json(message)


def links_of(page: requests.Response) -> list[str]:
    """Where the links, scripts and forms of a page lead: path and query, as its browser asks for them."""
    found = re.findall(r'(?:href|src|action)="([^"]*)"', page.text)
    addresses = [urlsplit(urljoin(page.url, unescape(one))) for one in found if not one.startswith("data:")]
    return [f"{one.path}?{one.query}" if one.query else one.path for one in addresses]


class Browser(requests.Session):
    """Looks at the pages of one backend; with the token of its link unless told otherwise."""

    def __init__(self, backend: RunningBackend, token: str = TOKEN) -> None:
        super().__init__()
        self.trust_env = False
        self._url = backend.http_url
        self._query = {"token": token} if token else {}

    def look(self, path: str = "/", **headers: str) -> requests.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.get(self._url + path, params=self._query, headers=names, timeout=FAILSAFE)

    def enter(self, key: str, path: str = "/", **headers: str) -> requests.Response:
        return self.post(self._url + path, data={"key": key}, headers=headers, timeout=FAILSAFE)
