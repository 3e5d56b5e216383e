"""What the tests of cut-off calls and of the restore share: a session without a server, and computed Variables."""

from __future__ import annotations

import tellurio_sync as te
from tellurio_sync.model import Variable

from ..model.fake_link import FakeLink, link

__all__ = ["computed", "link"]


def computed(link: FakeLink, *arguments: Variable) -> Variable:
    """A Variable that a function computed from these."""
    node_id = link.new_id("node")
    link.answers["run_function"] = lambda params: {"data": link.computed(node_id=node_id)}
    link.push("create_node", node_id=node_id, name="AddBackward0")
    output = te.functional.sum(list(arguments))
    return output
