"""The WebSocket transport over real sockets: what it reads, and how it ends."""

from __future__ import annotations

import socket

import pytest

from tellurio_sync.transport import frames
from tellurio_sync.transport.base import Ending, TransportEnded
from tellurio_sync.transport.websocket import WebSocketTransport

from .ends import Receiving, SocketFarEnd, receive, receive_ending, receive_until, tcp_pair

# --- reading ----------------------------------------------------------------------------------------


def test_messages_that_come_one_byte_at_a_time_are_whole(far: SocketFarEnd) -> None:
    stream = far.connection.frame('"ü"') + far.connection.frame('"' + "x" * 200 + '"')
    with Receiving(far.transport) as receiving:
        for i in range(len(stream)):
            far.connection.send_raw(stream[i : i + 1])
        assert receiving.wait_for(2) == ['"ü"', '"' + "x" * 200 + '"']


@pytest.mark.parametrize("before", [b"", b"whole"])
def test_half_a_frame_and_a_reset_is_a_loss_by_the_network(far: SocketFarEnd, before: bytes) -> None:
    frame = far.connection.frame("half")
    far.connection.send_raw((far.connection.frame(before.decode()) if before else b"") + frame[:3])
    receive_until(far.transport, lambda _: far.transport.bytes_received >= 3)
    far.connection.reset()
    messages, ending = receive_ending(far.transport)
    assert messages == []
    assert (ending.who, ending.code) == ("network", None)


def test_the_end_of_the_stream_without_a_close_frame_is_the_servers(far: SocketFarEnd) -> None:
    far.connection.send_raw(far.connection.frame('"whole"') + far.connection.frame("half")[:3])
    far.connection.sock.close()
    messages, ending = receive_ending(far.transport)
    assert messages == ['"whole"']
    assert ending.who == "server"
    assert "without a close frame" in ending.reason


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"\x83\x00", 1002),
        (b"\x81\x81\x00\x00\x00\x00x", 1002),
        (b"\x81\x01\xff", 1007),
        (b"\x81\x7f" + (1 << 40).to_bytes(8, "big"), 1009),
    ],
)
def test_a_broken_frame_is_answered_with_its_close_code(far: SocketFarEnd, stream: bytes, code: int) -> None:
    far.connection.send_raw(far.connection.frame('"before"') + stream)
    messages, ending = receive_ending(far.transport)
    assert messages == ['"before"']
    assert (ending.who, ending.code) == ("server", code)
    far.transport.dispose()
    far.connection.wait_for_end()
    assert far.connection.close_code == code


def test_more_than_max_message_size_is_refused_with_the_limit_in_the_reason() -> None:
    far = SocketFarEnd(*tcp_pair(), max_message_size=1000)
    far.send("x" * 1000)
    assert receive(far.transport, 1) == ["x" * 1000]
    far.send("x" * 1001)
    messages, ending = receive_ending(far.transport)
    assert (messages, ending.code) == ([], 1009)
    assert "max_message_size=1000" in ending.reason
    far.dispose()


@pytest.mark.parametrize(("sent", "answered"), [(1000, 1000), (1001, 1001), (1011, 1011), (None, 1000)])
def test_a_close_frame_is_answered_with_the_same_code(far: SocketFarEnd, sent: int | None, answered: int) -> None:
    far.connection.send_raw(b"\x88\x00" if sent is None else b"\x88\x02" + sent.to_bytes(2, "big"))
    _, ending = receive_ending(far.transport)
    assert ending == Ending(f"the server closed it with code {sent or 1005}", "server", sent or 1005)
    far.connection.wait_for_end()
    assert far.connection.close_code == answered


def test_pings_are_answered_with_their_payload(far: SocketFarEnd) -> None:
    far.connection.send_ping(b"one")
    far.connection.send_ping(b"two")
    far.send('"x"')
    receive(far.transport, 1)
    far.transport.send(['"y"'])
    assert far.connection.receive() == "y"
    assert far.connection.pongs == [b"one", b"two"]


def test_a_pong_is_a_sign_of_life_but_no_message(far: SocketFarEnd) -> None:
    far.transport.ping()
    far.transport.send(['"x"'])
    far.connection.receive()  # answers the ping
    received = receive_until(far.transport, lambda _: far.transport.bytes_received > 0)
    assert received == []
    assert far.connection.pings == 1


# --- the end ----------------------------------------------------------------------------------------


def test_without_an_answer_to_the_close_frame_receive_goes_on_until_abort(far: SocketFarEnd) -> None:
    far.transport.close(1000, "bye")
    assert far.transport.receive(0.001) == []
    far.transport.abort(Ending("no answer", "local"))
    _, ending = receive_ending(far.transport)
    assert ending.reason == "no answer"


def test_what_the_server_sends_after_our_close_frame_is_still_read(far: SocketFarEnd) -> None:
    far.transport.close(1000, "")
    far.send('"last reply"')
    assert receive(far.transport, 1) == ['"last reply"']
    far.connection.wait_for_end()
    _, ending = receive_ending(far.transport)
    assert ending == Ending("closed", "local", 1000)


def test_a_long_reason_fits_the_close_frame(far: SocketFarEnd) -> None:
    far.transport.close(4000, "€" * 200)
    far.connection.wait_for_end()
    assert far.connection.close_code == 4000


def test_dispose_closes_every_descriptor(far: SocketFarEnd) -> None:
    transport = far.transport
    sockets = [transport._sock, transport._wake_in, transport._wake_out]
    transport.dispose()
    assert [sock.fileno() for sock in sockets] == [-1, -1, -1]


def test_a_forked_child_gives_its_descriptors_back_without_a_word() -> None:
    """What the child holds is a copy: the parent's connection goes on."""
    ours, theirs = tcp_pair()
    parents = SocketFarEnd(ours.dup(), theirs)
    child = WebSocketTransport(ours)
    child.forget_after_fork()
    assert ours.fileno() == -1
    child.wake()
    child.abort(Ending("late", "local"))
    with pytest.raises(TransportEnded):
        child.send(["x"])
    parents.transport.send(['"from the parent"'])
    assert parents.connection.receive() == "from the parent"
    parents.send('"to the parent"')
    assert receive(parents.transport, 1) == ['"to the parent"']
    parents.dispose()


def test_our_own_opcodes_are_masked_and_theirs_not(far: SocketFarEnd) -> None:
    far.transport.send(['"x"'])
    head = far.connection.sock.recv(2)
    assert head == bytes([0x80 | frames.TEXT, 0x80 | 3])


def test_after_a_fork_nobody_reads_what_has_got_the_same_descriptors(far: SocketFarEnd) -> None:
    far.transport.forget_after_fork()
    pairs = [socket.socketpair() for _ in range(4)]  # the free numbers, those of the connection among them
    try:
        for near, other in pairs:
            other.send(b"not ours")
            near.send(b"not ours")
        with pytest.raises(TransportEnded):
            far.transport.receive(0)
        assert all(end.recv(100) == b"not ours" for pair in pairs for end in pair)
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
