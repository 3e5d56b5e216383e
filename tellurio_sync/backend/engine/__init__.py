"""Automatic differentiation of texts: functions forward and backward, and the graph between them.

::

    op.py             the interface of a function;  concurrency.py: many questions at the same time
    text_ops.py       Add, Sum, Split
    conversation.py   messages with placeholders, batches, and feedback back through them
    chat.py           ChatCompletion
    evaluators.py     DeterministicEvaluator, ExactMatchEvaluator;  judge.py: LMJudgeEvaluator
    client_function.py  functions of the client
    functions.py      names -> functions, binding of arguments
    samples.py        batches in which some samples fail
    graph.py          recording a forward step;  backward.py: going back;  replay.py: trying new data

Knows neither sockets nor messages: for everything outside it asks its :class:`~.op.Host`.
"""
