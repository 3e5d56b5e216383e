"""Whole text messages over one WebSocket.

::

    base.py       the contract between the peer and a connection
    websocket.py  the real one: sockets, the outgoing queue, the writer's role;  tls.py: the same over TLS
    frames.py     RFC 6455 frames without input and output;  readiness.py: waiting for a socket or a wake-up
    handshake.py  opening: address, proxy, TLS, upgrade. The only module that imports websocket-client
    tcp.py        opening a TCP connection to a host with several addresses
    memory.py     a connection within the process, for tests
"""
