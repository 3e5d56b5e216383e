"""The peer's own client, for calls by hand."""

from afnio.tellurio._client_manager import get_default_clients
from afnio.tellurio._eventloop import run_in_background_loop


def call(method, **params):
    """The whole reply of the server."""
    _, ws = get_default_clients()
    return run_in_background_loop(ws.call(method, params))


def get(variable):
    """The server's view of a Variable."""
    return call("get_variable", variable_id=variable.variable_id)["result"]
