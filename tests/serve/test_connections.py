"""Clients that are slow, too many or none at all: others are answered, and the log is silent."""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from jaxneox.serve import app, completions, connections
from tests.limits import PATIENCE
from tests.serve.place import Place, place

HALF = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-"
HOST = b"Host: localhost\r\n"
CHUNKED = b"POST %s HTTP/1.1\r\n" + HOST
CHUNKED += b"Content-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = CHUNKED % (b"/v1/completions", b"application/json")
GET = b"GET /x HTTP/1.1\r\n"
MALFORMED = {
    "bad chunk": (CHUNKED % (b"/x", b"text/plain") + b"ZZ\r\n", 400),
    "bad chunk of a request": (BODY + b"-1\r\n", 400),
    "bad header": (GET + HOST + b": x\r\n\r\n", 400),
    "two hosts": (GET + HOST + HOST + b"\r\n", 400),
    "two lengths": (GET + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "no host": (GET + b"\r\n", 400),
    "huge header": (GET + HOST + b"X: " + b"x" * 400_000, 431),
    "huge target": (b"GET /" + b"x" * 400_000, 431),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403),
    "bytes": (bytes(range(256)) * 4 + b"\r\n\r\n", 400),
    "nothing": (b"\r\n\r\n", 400),
    "an upgrade": (GET + HOST + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n", 404),
}


def opened(here: Place, sent: bytes = b"") -> socket.socket:
    link = socket.create_connection(("127.0.0.1", here.port), timeout=PATIENCE)
    link.sendall(sent)
    return link


def rest(link: socket.socket) -> bytes:
    """What comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := link.recv(1 << 16):
            found += part
    return found


def status(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert b"\n" not in body
    return int(head.split()[1])


@pytest.fixture
def silent(capfd, caplog) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")
    assert caplog.get_records("call") == []


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_http_is_refused_in_one_line(here: Place, silent, name: str) -> None:
    sent, expected = MALFORMED[name]
    with opened(here) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(sent)
        link.shutdown(socket.SHUT_WR)
        head, *_ = rest(link).split(b"}HTTP/1.1 ")  # what follows has an answer of its own
        assert status(head if head.endswith(b"}}") else head + b"}") == expected
    assert here.health["status"] == "ready"


@pytest.mark.parametrize("path", [b"/x", b"/v1/models", b"/v1/completions"])
def test_a_bad_chunk_after_the_answer(here: Place, silent, path: bytes) -> None:
    with opened(here, CHUNKED % (path, b"text/plain")) as link:
        found = link.recv(1 << 16)  # the refusal comes before the body
        link.sendall(b"ZZ\r\n")
        assert status(found + rest(link)) in (404, 405, 415)


def test_tls_and_hang_ups(here: Place, silent) -> None:
    for _ in range(3):
        with opened(here) as link, pytest.raises(ssl.SSLError):
            ssl.create_default_context().wrap_socket(link, server_hostname="localhost")
    for sent in (
        b"",
        b"GET",
        HALF,
        BODY + b"5\r\n{",
    ):
        for _ in range(10):
            opened(here, sent).close()
    assert here.complete(prompt="The", max_tokens=1).status == 200
    assert here.settles(running=0, waiting=0)


def test_a_refusal_is_read_while_a_large_body_is_sent(here: Place, silent) -> None:
    body = b"x" * (8 << 20)
    for path, expected in (("/x", 404), ("/v1/completions", 415)):
        answer = here.ask("POST", path, body, "text/plain")
        assert answer.status == expected and answer.reason


@pytest.mark.slow
def test_heads_and_bodies_have_their_time(silent, monkeypatch) -> None:
    limits = {"head": 0.5, "discarding": 0.5, "closing": 0.5}
    monkeypatch.setattr(connections, "SECONDS", limits)
    monkeypatch.setattr(completions, "BODY", 0.5)
    monkeypatch.setattr(app, "REST_SECONDS", 0.5)
    with place() as here:
        began = time.monotonic()
        with opened(here, HALF) as half, opened(here) as mute:
            assert here.complete(prompt="The", max_tokens=1).status == 200
            assert status(rest(half)) == 408 and rest(mute) == b""
        with opened(here, BODY + b"1\r\n{\r\n") as body:
            assert status(rest(body)) == 408
        with opened(here, CHUNKED % (b"/x", b"text/plain")) as unwanted:
            assert status(rest(unwanted)) == 404
        with opened(here, HALF) as slow:  # a byte now and then is no excuse
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    slow.sendall(b"x")
                    time.sleep(0.05)
            assert time.monotonic() - began < 30
        with opened(here) as kept:  # a connection that is used stays
            for _ in range(12):
                ask(kept)
                time.sleep(0.1)


def ask(link: socket.socket) -> None:
    link.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reply = b""
    while not reply.endswith(b"}"):  # head and body may come apart
        part = link.recv(1 << 16)
        assert part, "the connection was closed"
        reply += part
    assert reply.startswith(b"HTTP/1.1 200")


def test_a_connection_is_kept_longer_than_clients_keep_theirs(silent, monkeypatch) -> None:
    monkeypatch.setattr(connections, "SECONDS", {"head": 0.2, "closing": 5})
    with place() as here:
        with opened(here) as kept:
            ask(kept)
            time.sleep(1)  # a head would be overdue by now
            ask(kept)
            kept.sendall(HALF)
            assert status(rest(kept)) == 408
        config = here.server.config
        assert config.timeout_keep_alive > 120  # LiteLLM's seconds, the most of those we know
        monkeypatch.setattr(config, "timeout_keep_alive", 0.2)
        with opened(here) as kept:
            ask(kept)
            assert rest(kept) == b""


def test_who_reads_nothing_is_cut_off(silent, monkeypatch) -> None:
    monkeypatch.setattr(connections, "UNREAD", 0.5)
    with place() as here, socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(PATIENCE)
        link.connect(("127.0.0.1", here.port))
        link.sendall((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 1000)  # more than buffers hold
        end = time.monotonic() + 30
        while not len(here.server.connections) and time.monotonic() < end:
            time.sleep(0.01)
        while len(here.server.connections) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(here.server.connections) == 0


def test_too_many_connections_close_the_oldest_without_a_head(silent) -> None:
    with place(connections=8) as here, contextlib.ExitStack() as held:
        links = [held.enter_context(opened(here, HALF)) for _ in range(20)]
        for _ in range(5):
            assert here.complete(prompt="The", max_tokens=1).status == 200
        assert rest(links[0]) == b"" and len(here.server.connections) <= 8


@pytest.mark.slow
def test_nobody_loses_an_answer_to_another_connection(silent) -> None:
    with place(connections=4) as here:
        assert here.complete(prompt="The", max_tokens=2).status == 200  # compiles
        with here.slow(0.1):
            events = [here.stream(prompt="The", max_tokens=40, ignore_eos=True) for _ in range(4)]
            counts = [len([next(one)]) for one in events]
            with opened(here) as another:
                assert status(rest(another)) == 503
        counts = [count + len(list(one)) for count, one in zip(counts, events, strict=True)]
        assert min(counts) > 1 and here.settles(running=0)


@pytest.mark.slow
def test_the_end_comes_whatever_clients_do(silent, monkeypatch) -> None:
    monkeypatch.setattr("jaxneox.serve.server.GRACE", 1.0)
    with contextlib.ExitStack() as held:
        with place() as here, here.slow(0.2):
            sent = [b"", HALF, BODY + b"1\r\n{\r\n"]
            for one in (*sent, CHUNKED % (b"/x", b"a") + b"1\r\n{\r\n"):
                held.enter_context(opened(here, one))
            body = json.dumps({"prompt": ["The"] * 9, "max_tokens": 40, "stream": True}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
            kind = b"Content-Type: application/json\r\n\r\n"
            held.enter_context(opened(here, head % len(body) + kind + body))
            assert here.settles(running=4)
            began = time.monotonic()
        assert time.monotonic() - began < 15  # whole answers were 18 s


def test_the_file_limit_is_raised_or_said(monkeypatch) -> None:
    limits, set_to = [(1024, 4096)], []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits[0])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, pair: set_to.append(pair))
    assert connections.file_limit(512) == 512 and set_to == []
    assert connections.file_limit(2000) == 2000 and set_to == [(2256, 4096)]
    assert connections.file_limit(9000) == 4096 - connections.RESERVE
    limits[0] = (300, 300)
    assert connections.file_limit(512) == 44
