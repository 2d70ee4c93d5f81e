"""What comes from outside is hostile: the right answer or one log line, and the daemon serves on."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgpack
import pytest

from peer import wire
from tests.world.client import get
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin

CONTENT = b"a layer of some bytes"


@pytest.fixture(scope="module")
def origin() -> ScriptedOrigin:
    origin = ScriptedOrigin()
    origin.push(CONTENT)
    return origin


@pytest.fixture(scope="module")
def node(origin: ScriptedOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with ExitStack() as stack:
        node = Node(tmp_path_factory.mktemp("node"), {"docker.io": origin.start(stack)})
        node.start(stack)
        yield node


@pytest.fixture
def digest(origin: ScriptedOrigin) -> str:
    return next(digest for digest, content in origin.contents.items() if content == CONTENT)


@pytest.fixture(autouse=True)
def serves_on(node: Node, digest: str) -> Iterator[None]:
    """After each attack a client still gets its blob, and the log holds no traceback."""
    yield
    assert get(node, f"/v2/{REPOSITORY}/blobs/{digest}").body == CONTENT
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/library/UPPER/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/made/manifests/-wrong", 400, "MANIFEST_INVALID"),
        ("/v2/library/made/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("/v2/library/made/blobs/md5:0123456789abcdef0123456789abcdef", 400, "DIGEST_INVALID"),
        ("/v2/library/made/manifests/latest?ns=unknown.example", 404, "NAME_UNKNOWN"),
        ("/v2/library/made/manifests/missing", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/made/blobs/sha256:" + 64 * "0", 404, "BLOB_UNKNOWN"),
        ("/v2/library/../../etc/passwd", 400, "NAME_INVALID"),
        ("/v2/library/%2e%2e/%2e%2e/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/made/uploads", 404, "UNSUPPORTED"),
    ],
)
def test_a_bad_path_is_answered_in_the_words_of_the_api(node: Node, path: str, status: int, code: str) -> None:
    got = get(node, path)
    (error,) = json.loads(got.body)["errors"]
    assert (got.status, error["code"]) == (status, code)


def test_a_path_with_dots_on_the_raw_socket_reaches_no_file(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.proxy_port), timeout=5) as sock:
        sock.sendall(b"GET /v2/library/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.split(b" ", 2)[1] in {b"400", b"404"}
    assert b"root:" not in answer


def test_a_range_that_cannot_be_satisfied(node: Node, digest: str) -> None:
    got = get(node, f"/v2/{REPOSITORY}/blobs/{digest}", Range="bytes=1000-")
    assert (got.status, got.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_push_is_refused(node: Node, method: str) -> None:
    got = get(node, f"/v2/{REPOSITORY}/blobs/uploads/", method)
    assert (got.status, json.loads(got.body)["errors"][0]["code"]) == (405, "UNSUPPORTED")


def hello(version: int = wire.VERSION) -> bytes:
    return wire.frame(wire.Hello(version, "0" * 32))


def altered(message: wire.Kinds, **fields: object) -> bytes:
    """A message with fields that its type does not allow."""
    data: bytes = msgpack.packb({**msgpack.unpackb(wire.codec.encode(message)), **fields})
    return struct.pack(">I", len(data)) + data


ATTACKS_OF_STRANGERS = [
    struct.pack(">I", wire.MAX_MESSAGE_SIZE + 1),
    hello(99),
    struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1",
]
"""A message that is too large, one of another version, and bytes that are none."""

ATTACKS = {
    "a message of an unknown kind": altered(wire.Ready(), t="bogus"),
    "a field of a wrong type": altered(wire.Request("sha256:" + 64 * "0", 10, 0), piece="0"),
    "a chunk that belongs to no piece": struct.pack(">I", (1 << 31) | 100) + bytes(100),
    "a digest that does not parse": wire.frame(wire.Request("sha256:x", 10, 0)),
    "a second hello": hello(),
}


def send_to_the_end(node: Node, content: bytes) -> None:
    """Send this to the peer port, and read until the other side ends the connection."""
    with socket.create_connection(("127.0.0.1", node.peer_port), timeout=5) as sock:
        sock.sendall(content)
        while sock.recv(4096):
            pass


def test_bad_strangers_are_dropped_with_one_log_line_in_all(node: Node) -> None:
    for attack in ATTACKS_OF_STRANGERS:
        send_to_the_end(node, attack)
    wait_until(lambda: node.log.count("invalid message") == 1, "one log line")


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_peer_is_dropped_with_one_log_line(node: Node, name: str) -> None:
    before = node.log.count("invalid message")
    send_to_the_end(node, hello() + ATTACKS[name])
    wait_until(lambda: node.log.count("invalid message") == before + 1, "one log line")


def test_a_truncated_message_leaks_nothing(node: Node) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", node.peer_port), timeout=5) as sock:
            sock.sendall(hello()[:7])
    wait_until(lambda: node.counted("shoal_neighbours") == 0, "no neighbour is left")


def test_a_bad_supernode_answer_is_dropped(origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack) -> None:
    """A port that speaks no WebSocket at all: the node goes to the origin by itself."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    lonely = Node(tmp_path / "lonely", {"docker.io": origin.start(stack)})
    lonely.settings["SHOAL_PEER__SUPERNODE"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
    lonely.start(stack)
    assert get(lonely, f"/v2/{REPOSITORY}/manifests/latest").status == 200


def test_health_and_metrics_answer(node: Node, tmp_path: Path, stack: ExitStack) -> None:
    supernode = Supernode(tmp_path)
    supernode.start(stack)
    for port in (node.operations_port, supernode.operations_port):
        operations = Node(tmp_path / "x", {"docker.io": "http://127.0.0.1:1"})
        operations.proxy_port = port
        assert get(operations, "/healthz").status == 200
        assert get(operations, "/readyz").status == 200
        metrics = get(operations, "/metrics").body
        assert b"# HELP shoal_" in metrics
