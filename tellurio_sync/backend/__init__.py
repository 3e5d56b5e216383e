"""The local Tellurio backend: a server of its own, in its own process (extra ``local``).

::

    server.py      the process: one port, signals, ready file
    rest.py        projects, runs, metrics over HTTP     -> store.py (SQLite);  page.py: the same for a browser
    connection.py  one WebSocket connection: messages in order, pushes, heartbeats
    methods.py     the 15 methods a client may call      -> engine/, optimizer.py
    sessions.py    who sees which objects, and for how long
    objects.py     variables, nodes, models, optimizers of one session;  wire.py: their form in messages
    lm.py          language models;  prompts.py, answers.py: what they are asked, what they may answer

Imports ``errors`` and ``jsonrpc`` of this package, nothing else of it.
"""
