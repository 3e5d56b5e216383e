"""The command ``tellurio-sync``.

::

    main.py      the commands together: errors, exit codes, completion
    account.py   login, logout, whoami
    records.py   runs, show, metrics, export, sync, report;  sources.py: where runs are read from
    server.py    backend, demo, call
    doctor.py    what is wrong between here and the server, stage by stage;  stages.py: the stages
    terminal.py  tables and plots as text, and where messages go

At the start only ``click`` is imported, and what is small; each command imports what it needs.
"""

from .main import main
from .terminal import PROGRAM

__all__ = ["PROGRAM", "main"]
