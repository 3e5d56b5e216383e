"""Cells of a notebook that go from one client to the other and back, while the program's objects stay."""

import harness
from IPython.core.interactiveshell import InteractiveShell

CELLS = (
    """
from afnio import Variable
from afnio.autodiff.basic_ops import Add
from afnio.tellurio import init, log
run = init(namespace, "Notebook")
x = Variable("a", role="x", requires_grad=True)
add = lambda: seen.append(Add.apply(x, x).data)
add()
""",
    "%load_ext tellurio_sync.afnio",
    "add(); log('a', 1)",
    "%reload_ext tellurio_sync.afnio",
    "add(); x.data = 'b'",
    "%unload_ext tellurio_sync.afnio",
    "add(); log('a', 2)",
    """
import tellurio_sync.afnio
with tellurio_sync.afnio.install(metrics=True):
    add(); log('a', 3)
""",
    "Add.apply(x, x).backward(Variable('f', role='g')); seen.append(len(x.grad)); run.finish()",
)


def observe(namespace):
    shell = InteractiveShell.instance()
    seen = shell.user_ns["seen"] = []
    shell.user_ns["namespace"] = namespace
    failed = {}
    for cell in CELLS:
        result = shell.run_cell(cell, silent=True)
        error = result.error_in_exec or result.error_before_exec
        if error is not None:
            failed[cell] = harness.error_of(error)
    return {"seen": seen, "failed": failed}


harness.main(observe)
