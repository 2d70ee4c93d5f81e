from __future__ import annotations

import asyncio
import email.message
import email.policy
import hashlib
import re
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from peer.asked import Asked, Behind
from peer.errors import DigestMismatch
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable, SizeDiffers
from proxy.metrics import ProxyMetrics
from proxy.server import ProxyServer
from proxy.settings import Lazy, ProxySettings
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import MAX_RANGES, ByteRange
from shoal.reference import Location
from tests.world.catalogue import open_catalogue

if TYPE_CHECKING:
    from tests.proxy.conftest import Answer, Front, MemoryEngine, MemoryOrigin

CONTENT = bytes(range(256)) * 8192
SIZE = len(CONTENT)


@pytest.fixture(params=["stored", "coming"])
def digest(request: pytest.FixtureRequest, engine: MemoryEngine) -> Digest:
    """A blob in the store, and one on its way: clients see no difference."""
    return engine.store.put(CONTENT) if request.param == "stored" else engine.coming(CONTENT)


def path(digest: Digest) -> str:
    return f"/v2/library/busybox/blobs/{digest}"


async def test_a_whole_blob(front: Front, digest: Digest) -> None:
    answer = await front.ask(path(digest), Accept_Encoding="zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(SIZE)
    assert "Content-Encoding" not in answer.headers
    assert "Transfer-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=1000-", 1000, SIZE),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes={SIZE - 1}-{SIZE + 100}", SIZE - 1, SIZE),
    ],
)
async def test_a_range(front: Front, digest: Digest, header: str, start: int, end: int) -> None:
    answer = await front.ask(path(digest), Range=header)
    assert (answer.status, answer.body) == (206, CONTENT[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """What a client of `multipart/byteranges` reads: the range that each part says it is, and its bytes."""
    message = email.message_from_bytes(
        f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode() + answer.body, policy=email.policy.HTTP
    )
    assert message.is_multipart()
    parts = []
    for part in message.get_payload():
        assert isinstance(part, email.message.Message)
        assert part.get_content_type() == "application/octet-stream"
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts.append((part["Content-Range"], content))
    return parts


@pytest.mark.parametrize(
    ("header", "ranges"),
    [
        ("bytes=0-1,5-6", [(0, 2), (5, 7)]),
        (f"bytes=1000000-1099999,0-0,-7,{SIZE}-", [(1_000_000, 1_100_000), (0, 1), (SIZE - 7, SIZE)]),
        ("bytes=100-199,200-299", [(100, 200), (200, 300)]),
    ],
)
async def test_several_ranges(
    front: Front, digest: Digest, engine: MemoryEngine, header: str, ranges: list[tuple[int, int]]
) -> None:
    answer = await front.ask(path(digest), Range=header)
    assert (answer.status, int(answer.headers["Content-Length"])) == (206, len(answer.body))
    assert re.fullmatch("multipart/byteranges; boundary=[0-9a-f]{32}", answer.headers["Content-Type"])
    assert "Content-Range" not in answer.headers
    assert answer.headers["Docker-Content-Digest"] == digest
    assert parts_of(answer) == [(f"bytes {start}-{end - 1}/{SIZE}", CONTENT[start:end]) for start, end in ranges]
    assert len(engine.opened) == 1


async def test_the_many_ranges_of_a_zstd_chunked_layer(front: Front, digest: Digest) -> None:
    ranges = [(place * 2000, place * 2000 + 1000) for place in range(MAX_RANGES)]
    header = "bytes=" + ",".join(f"{start}-{end - 1}" for start, end in ranges)
    answer = await front.ask(path(digest), Range=header)
    assert answer.status == 206
    assert [content for _, content in parts_of(answer)] == [CONTENT[start:end] for start, end in ranges]
    answer = await front.ask(path(digest), Range=f"{header},{SIZE - 1}-")
    assert (answer.status, answer.body) == (200, CONTENT)


async def test_ranges_of_which_one_is_left_are_one(front: Front, digest: Digest) -> None:
    for header in ("bytes=0-5,3-9", f"bytes=0-9,{SIZE}-"):
        answer = await front.ask(path(digest), Range=header)
        assert (answer.status, answer.body) == (206, CONTENT[:10])
        assert answer.headers["Content-Range"] == f"bytes 0-9/{SIZE}"


@pytest.mark.parametrize("header", ["lines=1-2", "bytes=a-5", "bytes=0-1,x", "nonsense"])
async def test_a_range_that_is_none_gives_the_whole_blob(front: Front, digest: Digest, header: str) -> None:
    answer = await front.ask(path(digest), Range=header)
    assert (answer.status, answer.body) == (200, CONTENT)


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0", "bytes=9-5", f"bytes={SIZE}-{SIZE + 5},-0"])
async def test_a_range_outside_the_blob(front: Front, digest: Digest, engine: MemoryEngine, header: str) -> None:
    answer = await front.ask(path(digest), Range=header)
    assert (answer.status, answer.code, answer.headers["Content-Range"]) == (416, "RANGE_INVALID", f"bytes */{SIZE}")
    assert engine.opened == []


@pytest.mark.parametrize("condition", ['"sha256:other"', 'W/"{}"', "{}", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_a_condition_that_does_not_hold_voids_the_range(front: Front, digest: Digest, condition: str) -> None:
    for header in ("bytes=5-9", f"bytes={SIZE}-"):
        answer = await front.ask(path(digest), Range=header, If_Range=condition.format(digest))
        assert (answer.status, answer.body) == (200, CONTENT)
    answer = await front.ask(path(digest), Range="bytes=5-9", If_Range=f'"{digest}"')
    assert answer.status == 206


@pytest.mark.parametrize("wrap", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
async def test_what_the_client_has_is_not_sent(front: Front, digest: Digest, engine: MemoryEngine, wrap: str) -> None:
    answer = await front.ask(path(digest), If_None_Match=wrap.format(digest))
    assert (answer.status, answer.body, engine.opened) == (304, b"", [])
    answer = await front.ask(path(digest), If_None_Match=wrap.format(digest), Range=f"bytes={SIZE}-")
    assert (answer.status, engine.opened) == (304, [])


async def test_head_begins_no_download(front: Front, digest: Digest, engine: MemoryEngine) -> None:
    answer = await front.ask(path(digest), "HEAD", Range="bytes=0-")
    assert (answer.status, answer.headers["Content-Length"], engine.opened) == (200, str(SIZE), [])
    assert answer.headers["Docker-Content-Digest"] == digest


async def test_an_empty_blob(front: Front, engine: MemoryEngine) -> None:
    for digest in (engine.store.put(b""), engine.coming(b"")):
        answer = await front.ask(path(digest))
        assert (answer.status, answer.body) == (200, b"")
        for header in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-9,0-"):
            answer = await front.ask(path(digest), Range=header)
            assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("content", [b"x", CONTENT])
async def test_blobs_of_other_algorithms_and_of_one_byte(front: Front, engine: MemoryEngine, content: bytes) -> None:
    digest = Digest(f"sha512:{hashlib.sha512(content).hexdigest()}")
    engine.contents[digest], engine.sizes[digest] = content, Descriptor(digest, len(content))
    answer = await front.ask(path(digest))
    assert (answer.status, answer.body, answer.headers["Docker-Content-Digest"]) == (200, content, digest)
    answer = await front.ask(path(digest), Range="bytes=-1", If_Range=f'"{digest}"')
    assert (answer.status, answer.body) == (206, content[-1:])
    assert (await front.ask(path(digest), Range=f"bytes={len(content)}-")).status == 416


@pytest.mark.parametrize(
    ("lazy", "behind"), [("range", Behind.NOTHING), ("background", Behind.REST), ("whole", Behind.IMAGE)]
)
async def test_the_engine_is_told_of_ranges_and_what_to_fetch_behind_them(
    engine: MemoryEngine, memory_origin: MemoryOrigin, lazy: Lazy, behind: Behind
) -> None:
    digest = engine.coming(CONTENT)
    settings = ProxySettings(port=0, lazy=lazy)
    server = ProxyServer(settings, engine, None, memory_origin, open_catalogue(), ProxyMetrics(CollectorRegistry()))
    async with server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{path(digest)}"
        for header in ("bytes=5-9,20-29", "bytes=100-", "bytes=0-", ""):
            async with session.get(url, headers={"Range": header} if header else {}) as answer:
                await answer.read()
    assert engine.asked == [
        Asked((ByteRange(5, 10), ByteRange(20, 30)), behind),
        Asked((ByteRange(100, SIZE),), behind),
        None,
        None,
    ]


async def test_many_requests_over_one_connection(front: Front, digest: Digest) -> None:
    for start in range(0, 50, 10):
        assert (await front.ask(path(digest), Range=f"bytes={start}-{start + 9}")).body == CONTENT[start : start + 10]


async def test_a_size_that_nobody_told_is_asked_for(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT, known=False)
    front.origin.known[digest] = Descriptor(digest, SIZE)
    answer = await front.ask(f"/v2/a/b/blobs/{digest}?ns=quay.io")
    assert answer.body == CONTENT
    assert front.origin.asked == [(Location.parse("quay.io", "a/b"), digest, BlobKind.BLOB)]
    assert front.cluster.published == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OriginNotFound("x"), 404, "BLOB_UNKNOWN"),
        (OriginDenied("x"), 403, "DENIED"),
        (OriginUnavailable("x"), 502, "UNAVAILABLE"),
    ],
)
async def test_errors_before_the_first_byte_are_a_status(
    front: Front, engine: MemoryEngine, error: Exception, status: int, code: str
) -> None:
    digest = engine.coming(CONTENT)
    engine.error = error
    answer = await front.ask(path(digest))
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize("error", [DigestMismatch("wrong"), OriginUnavailable("gone")])
async def test_errors_after_the_first_byte_cut_the_body(front: Front, engine: MemoryEngine, error: Exception) -> None:
    digest = engine.coming(CONTENT)
    engine.breaks_after, engine.break_error = SIZE // 2, error
    with capture_logs() as logs, pytest.raises(aiohttp.ClientPayloadError):
        await front.ask(path(digest))
    assert "response.cut" in [entry["event"] for entry in logs]
    assert front.sample("shoal_proxy_cut_responses_total") == 1


async def test_a_download_that_ends_early_is_cut(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.sizes[digest] = Descriptor(digest, SIZE + 1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await front.ask(path(digest))
    assert front.sample("shoal_proxy_cut_responses_total") == 1


async def test_a_stored_file_that_is_too_short_is_cut(front: Front, engine: MemoryEngine) -> None:
    digest = engine.store.put(CONTENT)
    engine.sizes[digest] = Descriptor(digest, SIZE)
    engine.store.size = lambda digest: SIZE + 1  # type: ignore[method-assign]
    with pytest.raises(aiohttp.ClientPayloadError):
        await front.ask(path(digest))


async def test_the_first_bytes_do_not_wait_for_the_others(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.gate.clear()
    async with front.session.get(front.url + path(digest)) as response:
        assert response.status == 200
        engine.gate.set()
        await response.content.readexactly(1)
        engine.gate.clear()
        engine.gate.set()
        assert len(await response.read()) == SIZE - 1


async def test_a_client_that_closes_early_is_no_error(front: Front, digest: Digest, engine: MemoryEngine) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.server.port, limit=1024)
            writer.write(f"GET {path(digest)} HTTP/1.1\r\nHost: x\r\nRange: bytes=100-\r\n\r\n".encode())
            await reader.readline()
            writer.transport.abort()
        answer = await front.ask(path(digest), Range="bytes=0-9")
    assert answer.body == CONTENT[:10]
    assert [entry for entry in logs if entry["log_level"] in {"warning", "error"}] == []


async def test_a_client_that_leaves_a_waiting_download_is_let_go(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT)
    engine.gate.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", front.server.port)
    writer.write(f"GET {path(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    while not engine.opened:
        await front.ask("/v2/")
    writer.transport.abort()
    while not engine.left:
        await front.ask("/v2/")
    assert front.sample("shoal_proxy_request_seconds_count", route="blob", status="499") == 1


# --- sizes --------------------------------------------------------------------------------------------------------


async def test_a_size_that_head_told_wrongly_is_made_good_by_get(front: Front, engine: MemoryEngine) -> None:
    digest, engine.checks_sizes = engine.coming(CONTENT, known=False), True
    front.origin.known[digest] = Descriptor(digest, SIZE + 5)
    answer = await front.ask(path(digest), Range="bytes=-7")
    assert (answer.status, answer.body) == (206, CONTENT[-7:])
    assert answer.headers["Content-Range"] == f"bytes {SIZE - 7}-{SIZE - 1}/{SIZE}"
    assert (await front.ask(path(digest))).body == CONTENT
    assert [blob.size for blob in engine.opened] == [SIZE + 5, SIZE, SIZE]
    assert len(front.origin.asked) == 1


async def test_a_second_wrong_size_is_an_error(front: Front, engine: MemoryEngine) -> None:
    digest = engine.coming(CONTENT, known=False)
    front.origin.known[digest] = Descriptor(digest, SIZE + 5)
    engine.error = SizeDiffers("no", SIZE + 6)
    answer = await front.ask(path(digest))
    assert (answer.status, answer.code, len(engine.opened)) == (502, "UNAVAILABLE", 2)


async def test_a_manifests_wrong_size_fails_for_its_own_layer_alone(front: Front, engine: MemoryEngine) -> None:
    digest, engine.checks_sizes = engine.coming(CONTENT, known=False), True
    engine.expect([Descriptor(digest, SIZE + 5)], Location.parse("docker.io", "library/liar"))
    engine.expect([Descriptor(digest, SIZE)], Location.parse("docker.io", "library/busybox"))
    answer = await front.ask(f"/v2/library/liar/blobs/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert f"{SIZE} bytes, {SIZE + 5} were expected".encode() in answer.body
    assert (await front.ask(path(digest))).body == CONTENT
    assert front.origin.asked == []


@pytest.mark.parametrize("sizes", [(SIZE, SIZE + 5), (SIZE + 5, SIZE)])
async def test_of_two_manifests_of_one_repository_the_right_one_is_served(
    front: Front, engine: MemoryEngine, sizes: tuple[int, int]
) -> None:
    digest, engine.checks_sizes = engine.coming(CONTENT, known=False), True
    for place, size in enumerate(sizes):
        config = Descriptor(Digest.of(bytes([place])), 1)
        engine.expect([config, Descriptor(digest, size)], Location.parse("docker.io", "library/busybox"))
    assert (await front.ask(path(digest))).body == CONTENT


async def test_a_blob_that_was_stored_with_another_size_meanwhile(front: Front, engine: MemoryEngine) -> None:
    digest = engine.store.put(CONTENT)
    engine.unnamed.add(digest)
    front.origin.known[digest] = Descriptor(digest, SIZE + 5)
    engine.resized[digest] = SIZE
    assert (await front.ask(path(digest))).body == CONTENT


async def test_an_impossible_blob_fails_with_its_size(front: Front, engine: MemoryEngine) -> None:
    digest = Digest.of(b"x")
    engine.expect([Descriptor(digest, MAX_BLOB_SIZE + 1)], Location.parse("docker.io", "library/busybox"))
    answer = await front.ask(path(digest))
    assert (answer.status, answer.code, engine.opened) == (404, "BLOB_UNKNOWN", [])
    assert str(MAX_BLOB_SIZE + 1).encode() in answer.body


async def test_a_client_that_asks_again_for_what_nobody_could_give_waits_less(
    front: Front, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = engine.coming(CONTENT)
    engine.error = OriginUnavailable("nobody has it")
    waits: list[float] = []
    opened = engine.open

    async def open_blob(blob: Descriptor, location: Location, asked: Asked | None, since: float | None) -> object:
        assert since is not None
        waits.append(time.monotonic() - since)
        return await opened(blob, location, asked, since)

    monkeypatch.setattr(engine, "open", open_blob)
    for _ in range(2):
        assert (await front.ask(path(digest))).status == 502
    engine.error = None
    assert (await front.ask(path(digest))).status == 200
    assert waits[0] < 1 < 3 < waits[1]
