"""One end of a JSON-RPC 2.0 conversation over a connection that is kept open. Knows nothing of Tellurio.

::

    peer.py           Peer: request, request_many, submit, notify, for any number of threads
    lifecycle.py      dials, greets, reconnects: the states of a connection, and the receive thread
    connection.py     one connection from greeting to end: the receive loop and its timers
    pending.py        the calls that wait for a reply;  futures.py: submitted calls
    dispatch.py       what the other end may call: handlers, their order, their replies
    workers.py        the threads for code of the user
    keepalive.py      when to ping;  backoff.py: how long to pause before the next attempt
    tally.py          what has happened, in numbers and by name;  recording.py: the shapes of the last envelopes
    at_exit.py        the end of the interpreter;  records.py: log records, handled on a thread of their own

The way of a call: ``Peer.request`` makes a ``PendingCall``.  ``Connection.start`` registers it in the ``PendingTable``
and sends; the caller waits on the call.  The receive thread finds the reply (``Connection._on_message``), takes the
call out of the table and wakes the caller.  Whatever ends the connection fails every call that is still in the table.
"""
