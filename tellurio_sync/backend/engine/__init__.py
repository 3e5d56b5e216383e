"""Automatic differentiation of texts: functions forward and backward, and the graph between them.

::

    op.py             what a function is;  concurrency.py: many questions at once
    text_ops.py       Add, Sum, Split
    conversation.py   messages with placeholders, batches, and feedback back through them
    chat.py           ChatCompletion
    evaluators.py     DeterministicEvaluator, ExactMatchEvaluator;  judge.py: LMJudgeEvaluator
    functions.py      names -> functions, binding of arguments
    graph.py          recording a forward step;  backward.py: going back

Knows neither sockets nor messages: whatever it needs of the outside it asks its :class:`~.op.Host`.
"""
