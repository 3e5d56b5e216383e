"""A client for tests: one thread, nothing hidden, every frame kept in the order of its arrival."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import websocket

FAILSAFE = 30.0


class RpcError(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error

    @property
    def text(self) -> str:
        return str(self.error["data"]["exception"])


class RpcClient:
    """Speaks the protocol; `frames` holds what came, `functions` what the server may call."""

    def __init__(self, url: str, key: str, headers: dict[str, str] | None = None) -> None:
        lines = [f"Authorization: Api-Key {key}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (headers or {}).items()]
        self.ws = websocket.create_connection(url, header=lines, timeout=FAILSAFE, skip_utf8_validation=True)
        self.greeting = json.loads(self.ws.recv())
        self.frames: list[dict[str, Any]] = []
        self.functions: dict[str, Callable[..., Any]] = {}
        self._count = 0

    def close(self) -> None:
        self.ws.shutdown()  # type: ignore[no-untyped-call]

    # --- calls ----------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method; `frames` then holds what came on the way."""
        self.frames = []
        return self.result(self.send(method, **params))

    def send(self, method: str, **params: Any) -> str:
        self._count += 1
        request_id = f"request-{self._count}"
        self.send_json(
            {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "run_uuid": "run-1"}}
        )
        return request_id

    def send_json(self, message: Any) -> None:
        self.ws.send(message if isinstance(message, str) else json.dumps(message))

    def result(self, request_id: str) -> Any:
        envelope = self.reply(request_id)
        if "error" in envelope:
            raise RpcError(envelope["error"])
        return envelope["result"]

    def reply(self, request_id: Any) -> dict[str, Any]:
        for frame in self.frames:
            if frame.get("id") == request_id and "method" not in frame:
                return frame
        while True:
            frame = self.next()
            if frame.get("id") == request_id and "method" not in frame:
                return frame

    def next(self) -> dict[str, Any]:
        """The next frame; requests of the server's are answered."""
        frame: dict[str, Any] = json.loads(self.ws.recv())
        assert frame["jsonrpc"] == "2.0"
        self.frames.append(frame)
        if "method" in frame and "id" in frame:
            self.send_json({"jsonrpc": "2.0", "id": frame["id"], **self._answer(frame)})
        return frame

    def _answer(self, frame: dict[str, Any]) -> dict[str, Any]:
        if frame["method"] != "run_callable":
            return {"result": {"message": "Ok"}}
        params = frame["params"]
        try:
            value = self.functions[params["callable_id"]](*params["args"], **params["kwargs"])
        except Exception as exc:  # noqa: BLE001 - what the peer's client answers (protocol §D.2)
            return {"error": {"code": -32603, "message": "Internal error", "data": {"exception": f"callable: {exc}"}}}
        return {"result": {"message": "Ok", "data": value}}

    def until(self, method: str) -> dict[str, Any]:
        """The next push of ``method``."""
        while True:
            frame = self.next()
            if frame.get("method") == method:
                return frame

    def pushes(self, *without: str) -> list[str]:
        """The methods of all frames, "reply" for replies, in order."""
        names = [frame.get("method", "reply") for frame in self.frames]
        return [name for name in names if name not in without]

    def pushed(self, method: str) -> list[dict[str, Any]]:
        return [frame["params"] for frame in self.frames if frame.get("method") == method]

    # --- shorthands -----------------------------------------------------------------------------

    def variable(
        self, data: Any, role: str = "", requires_grad: bool = False, parameter: bool = False
    ) -> dict[str, Any]:
        """The tag of a new variable."""
        kind = "__parameter__" if parameter else "__variable__"
        result = self.call("create_variable", data=data, role=role, requires_grad=requires_grad, obj_type=kind)
        return {kind: True, "variable_id": result["variable_id"]}

    def run(self, name: str, *args: Any, grad_enabled: bool = True, **kwargs: Any) -> Any:
        """The output of a function: one object or a list."""
        return self.call("run_function", function_name=name, args=list(args), kwargs=kwargs, grad_enabled=grad_enabled)[
            "data"
        ]

    def backward(self, variables: Any, gradient: Any = None, **params: Any) -> Any:
        defaults = {"retain_graph": None, "create_graph": False, "inputs": None}
        return self.call("run_backward", variables=variables, grad_variables=gradient, **{**defaults, **params})

    def get(self, tag: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self.call("get_variable", variable_id=tag["variable_id"])
        return result

    def gradients(self, tag: dict[str, Any]) -> list[Any]:
        return [self.get(gradient)["data"] for gradient in self.get(tag)["grad"]]

    def model(self, function: Callable[..., Any], name: str = "model") -> dict[str, Any]:
        """The tag of a model that is a function of this client's."""
        self.functions[name] = function
        result = self.call(
            "create_model", class_type="CallableModel", provider="callable", config={"callable_id": name}, usage={}
        )
        return {"__model_client__": True, "model_id": result["model_id"]}

    def function(self, function: Callable[..., Any], name: str) -> dict[str, Any]:
        self.functions[name] = function
        return {"__callable__": True, "callable_id": name}

    def set_backward_model(self, model: dict[str, Any], **completion_args: Any) -> None:
        self.call(
            "set_model_singleton",
            model_id=model["model_id"],
            model_name="callable",
            client_args={},
            completion_args=completion_args,
        )


def tag(output: dict[str, Any]) -> dict[str, Any]:
    """The reference to a function's output."""
    return {"__variable__": True, "variable_id": output["variable_id"]}
