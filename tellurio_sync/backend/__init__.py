"""The local Tellurio backend: a server in its own process (extra ``local``).

::

    server.py        the process: one port, signals, ready file;  options.py: its options
    rest.py          projects, runs, metrics over HTTP   -> store.py (SQLite), run_names.py
    page/            the same for a browser
    connection.py    one WebSocket connection: messages in order, pushes, heartbeats
    sessions.py      whose objects are whose, and when they are forgotten
    methods.py       what a client may call;  long_methods.py: the four methods that may run long
    scope.py         what one running request may do: ask, push, call the client
    objects.py       variables, nodes, models, optimizers;  data.py: their data;  wire.py: references in messages
    engine/          functions forward and backward, and the graph;  optimizer.py: textual gradient descent
    lm.py            language models behind HTTP endpoints;  usage.py: tokens and cost
    questions.py     a question to a language model, and its answer;  prompts.py: the texts of the questions
    asking.py        asking until an answer can be used;  answers.py: reading answers
    refused.py       the error that becomes an error reply

Imports ``errors`` and ``jsonrpc`` of this package, nothing else of it.
"""
