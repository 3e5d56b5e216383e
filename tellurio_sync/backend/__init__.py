"""The local Tellurio backend: a server in its own process (extra ``local``).

::

    opening.py       its data and its port, before the web framework is loaded
    server.py        the process: what is served, signals, ready file
    door.py          where connections come in, and which have to go
    command.py       the same as a command;  options.py: its options
    leashes.py       the programs that use it
    rest.py          projects, runs, metrics over HTTP;  run_names.py: names for runs
    store.py         the records in SQLite;  schema.py: their form and its versions;  metrics.py: packed values;
                     outlines.py: what plots of many values need of them
    snapshot.py      the same records, read without a backend
    page/            the pages for a browser
    history.py       what people look at beside metrics: versions.py of parameters, question_log.py of questions,
                     passes.py of backward passes
    connection.py    one WebSocket connection: messages in order, pushes, heartbeats
    sessions.py      whose objects are whose, and when they are forgotten
    methods.py       what a client may call;  long_methods.py: the four methods that may run long;  chain.py: those
                     that begin after another one
    scope.py         what one running request may do: ask, push, call the client;  progress.py: how far it is
    objects.py       variables, nodes, models, optimizers;  data.py: their data;  wire.py: references in messages
    engine/          functions forward and backward, and the graph;  optimizer.py: textual gradient descent
    lm/              language models behind HTTP endpoints;  usage.py: tokens and cost;  prices.py: of tokens
    questions.py     a question to a language model, and its answer;  prompts.py: the texts of the questions;
                     records.py: what is known of samples without a question
    asking.py        asking until an answer can be used;  reading/: reading answers;  question_counts.py: the bill
    kept_out.py      keys, kept out of all that is kept;  key_names.py: settings that are keys
    refused.py       the error that becomes an error reply

Imports nothing of the client, except ``errors``, ``jsonrpc``, ``journal``, ``leash``, ``addresses``,
``surroundings`` and ``secret``.
"""
