"""The client of upstream registries against real servers that behave, and that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from peer.origin import Origin, OriginDenied, OriginError, OriginNotFound, OriginUnavailable, SizeDiffers
from proxy.identity import ANONYMOUS
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.retry import Limited
from proxy.settings import ProxySettings, UpstreamSettings
from proxy.upstream import UpstreamClient
from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.reference import Location, Tag
from tests.world.ranges import parse_range

if TYPE_CHECKING:
    from tests.proxy.conftest import Handler, Site

    Serve = Callable[[Handler], Awaitable[Site]]
    Connect = Callable[..., Awaitable[tuple[UpstreamClient, list[float]]]]

CONTENT = bytes(range(256)) * 4096
BLOB = Descriptor(Digest.of(CONTENT), len(CONTENT))
AT = Location.parse("registry.example:5000", "team/app")
PATH = f"/v2/team/app/blobs/{BLOB.digest}"


async def read(client: Origin, start: int = 0, end: int | None = None, blob: Descriptor = BLOB) -> tuple[int, bytes]:
    async with client.fetch(AT, blob, start, end) as body:
        return body.start, b"".join([chunk async for chunk in body.chunks()])


async def whole(request: web.Request) -> web.StreamResponse:
    part = parse_range(request.headers.get("Range"), len(CONTENT))
    if part is None:
        return web.Response(body=CONTENT)
    headers = {"Content-Range": part.content_range(len(CONTENT))}
    return web.Response(status=206, body=CONTENT[part.start : part.end], headers=headers)


async def broken_off(request: web.Request, headers: dict[str, str], sent: bytes) -> web.StreamResponse:
    """A response of which the connection breaks behind `sent`."""
    response = web.StreamResponse(headers=headers)
    writer = await response.prepare(request)
    assert writer is not None
    await response.write(sent)
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_whole_blob_is_one_plain_get(serve: Serve, connect: Connect) -> None:
    site = await serve(whole)
    client, _ = await connect(site.url)
    assert await read(client) == (0, CONTENT)
    (request,) = site.seen
    assert (request.method, request.raw_path) == ("GET", PATH)
    assert "Range" not in request.headers
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in request.headers


async def test_a_range_is_asked_for_and_checked(serve: Serve, connect: Connect) -> None:
    site = await serve(whole)
    client, _ = await connect(site.url)
    assert await read(client, 100, 300) == (100, CONTENT[100:300])
    assert await read(client, 1000) == (1000, CONTENT[1000:])
    assert [request.headers["Range"] for request in site.seen] == ["bytes=100-299", f"bytes=1000-{len(CONTENT) - 1}"]


async def test_an_ignored_range_says_that_it_starts_at_zero(serve: Serve, connect: Connect) -> None:
    async def ignore(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    client, _ = await connect((await serve(ignore)).url)
    assert await read(client, 100, 300) == (0, CONTENT)


async def test_an_empty_blob(serve: Serve, connect: Connect) -> None:
    async def empty(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"")

    client, _ = await connect((await serve(empty)).url)
    assert await read(client, blob=Descriptor(Digest.of(b""), 0)) == (0, b"")


async def test_a_body_cut_short_is_noticed(serve: Serve, connect: Connect) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        return await broken_off(request, {"Content-Length": str(len(CONTENT))}, CONTENT[:5000])

    client, pauses = await connect((await serve(cut)).url)
    with pytest.raises(OriginUnavailable):
        await read(client)
    assert pauses == []  # bytes had come: what to do about the rest is the caller's business


async def test_a_body_without_a_length_that_ends_early_is_noticed(serve: Serve, connect: Connect) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT[:-1])
        return response

    client, _ = await connect((await serve(cut)).url)
    with pytest.raises(OriginUnavailable, match="1 bytes before its end"):
        await read(client)


async def test_a_body_longer_than_the_blob_is_noticed(serve: Serve, connect: Connect) -> None:
    async def long(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT + b"!")
        return response

    client, _ = await connect((await serve(long)).url)
    with pytest.raises(OriginUnavailable, match="more than it announced"):
        await read(client)


async def test_a_lying_content_length_is_noticed_before_a_byte_is_taken(serve: Serve, connect: Connect) -> None:
    async def lie(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT + b"!")

    client, pauses = await connect((await serve(lie)).url)
    with pytest.raises(OriginUnavailable, match="were expected"):
        await read(client)
    assert pauses == []


async def test_a_wrong_content_range_is_noticed(serve: Serve, connect: Connect) -> None:
    async def shift(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Range": f"bytes 0-199/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[:200], headers=headers)

    client, _ = await connect((await serve(shift)).url)
    with pytest.raises(OriginUnavailable, match="came for"):
        await read(client, 100, 300)


async def test_a_fetch_is_one_attempt(serve: Serve, connect: Connect) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        if len(site.seen) == 1:
            return web.Response(status=503, headers={"Retry-After": "120"})
        return await broken_off(request, {"Content-Length": str(len(CONTENT))}, b"")

    site = await serve(broken)
    client, pauses = await connect(site.url)
    for after in (120.0, None):
        with pytest.raises(OriginUnavailable) as caught:
            await read(client)
        assert caught.value.after == after
    assert (len(site.seen), pauses) == (2, [])


async def test_what_goes_wrong_with_the_bytes_is_not_the_origins_fault(serve: Serve, connect: Connect) -> None:
    client, _ = await connect((await serve(whole)).url)
    with pytest.raises(OSError, match="disk"):
        async with client.fetch(AT, BLOB):
            raise OSError("the disk is full")


async def test_another_size_is_told_before_the_first_byte(serve: Serve, connect: Connect) -> None:
    client, _ = await connect((await serve(whole)).url)
    for size, start in ((len(CONTENT) + 9, 0), (len(CONTENT) + 9, 5), (len(CONTENT) - 9, 5)):
        with pytest.raises(SizeDiffers) as caught:
            await read(client, start, blob=Descriptor(BLOB.digest, size))
        assert caught.value.size == len(CONTENT)


async def test_a_range_behind_the_end_tells_the_size(serve: Serve, connect: Connect) -> None:
    async def outside(request: web.Request) -> web.StreamResponse:
        return web.Response(status=416, headers={"Content-Range": "bytes */100"})

    client, _ = await connect((await serve(outside)).url)
    with pytest.raises(SizeDiffers) as caught:
        await read(client, 200)
    assert caught.value.size == 100


async def test_a_manifest_of_unannounced_length_tells_its_size(serve: Serve, connect: Connect) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{ }")
        return response

    client, _ = await connect((await serve(chunked)).url)
    for size in (2, 4):
        with pytest.raises(SizeDiffers) as caught:
            await read(client, blob=Descriptor(Digest.of(b"{ }"), size, kind=BlobKind.MANIFEST))
        assert caught.value.size == 3
    assert await read(client, blob=Descriptor(Digest.of(b"{ }"), 3, kind=BlobKind.MANIFEST)) == (0, b"{ }")


async def test_nothing_yet_means_another_try(serve: Serve, connect: Connect) -> None:
    async def moody(request: web.Request) -> web.StreamResponse:
        if len(site.seen) == 1:
            return web.Response(status=503)
        if len(site.seen) == 2:
            return await broken_off(request, {"Content-Length": "5"}, b"")
        return web.Response(body=b"[]")

    site = await serve(moody)
    client, pauses = await connect(site.url)
    assert (await client.listing(AT, "tags/list", "", ANONYMOUS)).body == b"[]"
    assert len(pauses) == 2


async def test_an_origin_at_its_limit_is_left_alone(serve: Serve, connect: Connect) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "6"})

    site = await serve(busy)
    client, pauses = await connect(site.url)
    for _ in range(3):
        with pytest.raises(Limited) as caught:
            await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)
        with pytest.raises(Limited):
            await read(client)
    assert caught.value.after == pytest.approx(6, abs=1)
    assert (len(site.seen), pauses) == (1, [])


async def test_the_clusters_word_on_a_limit_counts(serve: Serve, connect: Connect) -> None:
    site = await serve(whole)
    client, _ = await connect(site.url)
    client.quieten(AT.registry, 5.0)
    with pytest.raises(Limited):
        await read(client)
    assert site.seen == []


HINTS: dict[str, Callable[[], web.StreamResponse]] = {
    "404": lambda: web.Response(status=404),
    "403": lambda: web.Response(status=403),
    "405": lambda: web.Response(status=405),
    "400": lambda: web.Response(status=400),
    "501": lambda: web.Response(status=501),
    "500": lambda: web.Response(status=500),
    "no length": lambda: web.StreamResponse(),
    "length 0": lambda: web.Response(body=b""),
}


@pytest.mark.parametrize("hint", HINTS)
async def test_head_is_only_a_hint(serve: Serve, connect: Connect, hint: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return HINTS[hint]()
        if "manifests" in request.path:
            return web.Response(body=CONTENT, content_type=OCI_MANIFEST)
        return await whole(request)

    client, _ = await connect((await serve(answer)).url)
    assert await client.head(AT, Tag("1"), BlobKind.MANIFEST, ANONYMOUS) == Descriptor(
        BLOB.digest, len(CONTENT), OCI_MANIFEST, BlobKind.MANIFEST
    )
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)


@pytest.mark.parametrize("begins", [False, True], ids=["silent", "headers alone"])
async def test_a_hanging_origin_is_given_up_in_bounded_time(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    gate = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begins and request.method == "GET":
            await response.prepare(request)
            await response.write(b"{")
        await gate.wait()
        return response

    monkeypatch.setattr("proxy.retry.ANSWER_SECONDS", 0.1)
    client, pauses = await connect((await serve(hang)).url, retries=20)
    for question in (
        client.head(AT, Tag("1.0"), BlobKind.MANIFEST, ANONYMOUS),
        client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS),
        client.listing(AT, "tags/list", "", ANONYMOUS),
    ):
        async with asyncio.timeout(2):
            with pytest.raises(OriginUnavailable, match=r"no answer within 0\.1 s"):
                await question
    assert pauses == []
    gate.set()


async def test_a_long_list_may_take_its_time(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    monkeypatch.setattr("proxy.retry.ANSWER_SECONDS", 0.3)
    client, _ = await connect((await serve(slow)).url)
    assert (await client.listing(AT, "tags/list", "", ANONYMOUS)).body == b"x" * 10


async def test_connections_to_upstreams_are_limited(serve: Serve) -> None:
    gate = asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT))})
        await response.prepare(request)
        await response.write(CONTENT[:5])
        await gate.wait()
        await response.write(CONTENT[5:])
        return response

    site = await serve(hold)
    upstream = UpstreamSettings(url=site.url, connect_timeout=0.05)
    settings = ProxySettings(upstreams={"registry.example:5000": upstream})
    board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
    async with UpstreamClient(settings, board, connections=1) as client:
        async with client.fetch(AT, BLOB):
            with pytest.raises(OriginUnavailable):
                await read(client)
        assert len(site.seen) == 1
        gate.set()
        assert await read(client) == (0, CONTENT)


@pytest.mark.parametrize(
    ("status", "error"), [(404, OriginNotFound), (403, OriginDenied), (401, OriginDenied), (400, OriginUnavailable)]
)
async def test_refusals_are_final(serve: Serve, connect: Connect, status: int, error: type[OriginError]) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    site = await serve(refuse)
    client, pauses = await connect(site.url)
    with pytest.raises(error):
        await read(client)
    assert (len(site.seen), pauses) == (1, [])


async def test_no_connection_is_unavailable(serve: Serve, connect: Connect, unused_tcp_port: int) -> None:
    client, pauses = await connect(f"http://127.0.0.1:{unused_tcp_port}", retries=1)
    with pytest.raises(OriginUnavailable):
        await read(client)
    assert pauses == []
    with pytest.raises(OriginUnavailable):
        await client.listing(AT, "tags/list", "", ANONYMOUS)
    assert len(pauses) == 1


async def test_a_standstill_is_noticed(serve: Serve, connect: Connect) -> None:
    gate = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT))})
        await response.prepare(request)
        await response.write(CONTENT[:100])
        await gate.wait()
        return response

    client, _ = await connect((await serve(stall)).url, read_timeout=0.05)
    with pytest.raises(OriginUnavailable, match="in time"):
        await read(client)
    gate.set()


async def test_an_unnamed_registry_is_never_contacted(serve: Serve, connect: Connect) -> None:
    site = await serve(whole)
    client, _ = await connect(site.url)
    elsewhere = Location.parse(site.url.removeprefix("http://"), "team/app")
    with pytest.raises(OriginDenied, match="configured"):
        async with client.fetch(elsewhere, BLOB):
            pass
    with pytest.raises(OriginDenied, match="configured"):
        await client.head(elsewhere, BLOB.digest, BlobKind.BLOB, ANONYMOUS)
    assert site.seen == []


async def test_a_manifest_is_fetched_from_where_manifests_are(serve: Serve, connect: Connect) -> None:
    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}", content_type=OCI_MANIFEST)

    site = await serve(give)
    client, _ = await connect(site.url)
    manifest = Descriptor(Digest.of(b"{}"), 2, kind=BlobKind.MANIFEST)
    assert await read(client, blob=manifest) == (0, b"{}")
    assert site.seen[0].path == f"/v2/team/app/manifests/{manifest.digest}"
    assert OCI_MANIFEST in site.seen[0].headers["Accept"]
    with pytest.raises(OriginUnavailable, match="limit"):
        await read(client, blob=Descriptor(manifest.digest, MAX_MANIFEST_SIZE + 1, kind=BlobKind.MANIFEST))


# --- HEAD ---------------------------------------------------------------------------------------------------------


async def test_head_tells_digest_size_and_type(serve: Serve, connect: Connect) -> None:
    async def describe(request: web.Request) -> web.StreamResponse:
        headers = {
            "Docker-Content-Digest": BLOB.digest,
            "Content-Length": "123",
            "Content-Type": f"{OCI_MANIFEST}; x=y",
        }
        return web.Response(headers=headers)

    site = await serve(describe)
    client, _ = await connect(site.url)
    found = await client.head(AT, Tag("1.0"), BlobKind.MANIFEST, ANONYMOUS)
    assert found == Descriptor(BLOB.digest, 123, OCI_MANIFEST, BlobKind.MANIFEST)
    assert [(request.method, request.path) for request in site.seen] == [("HEAD", "/v2/team/app/manifests/1.0")]


async def test_head_without_a_digest_is_made_good_by_a_get(serve: Serve, connect: Connect) -> None:
    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}", content_type=OCI_MANIFEST)

    client, _ = await connect((await serve(plain)).url)
    found = await client.head(AT, Tag("1.0"), BlobKind.MANIFEST, ANONYMOUS)
    assert found == Descriptor(Digest.of(b"{}"), 2, OCI_MANIFEST, BlobKind.MANIFEST)


@pytest.mark.parametrize("length", ["0", None, str(MAX_BLOB_SIZE + 1)])
async def test_a_head_that_tells_no_length_that_can_be_is_made_good_by_a_get(
    serve: Serve, connect: Connect, length: str | None
) -> None:
    async def mute(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return await whole(request)
        headers = {"Docker-Content-Digest": BLOB.digest} | ({"Content-Length": length} if length else {})
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        return response

    client, _ = await connect((await serve(mute)).url)
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)
    assert (await client.head(AT, BLOB.digest, BlobKind.MANIFEST, ANONYMOUS)).size == len(CONTENT)
    found = await client.head(AT, Tag("1.0"), BlobKind.MANIFEST, ANONYMOUS)
    assert (found.digest, found.size) == (BLOB.digest, len(CONTENT))


async def test_the_length_of_nothing_is_told_by_its_digest(serve: Serve, connect: Connect) -> None:
    async def empty(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Content-Length": "0"})

    site = await serve(empty)
    client, _ = await connect(site.url)
    assert (await client.head(AT, Digest.of(b""), BlobKind.BLOB, ANONYMOUS)).size == 0
    assert [request.method for request in site.seen] == ["HEAD"]
    with pytest.raises(OriginUnavailable, match="tells no size"):
        await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)


async def test_a_manifest_over_the_limit_is_not_read(serve: Serve, connect: Connect) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.method == "GET":
            await response.write(bytes(MAX_MANIFEST_SIZE + 1))
        return response

    client, _ = await connect((await serve(endless)).url)
    with pytest.raises(OriginUnavailable, match="more than"):
        await client.head(AT, Tag("1.0"), BlobKind.MANIFEST, ANONYMOUS)


async def test_the_size_of_a_blob_that_is_signed_for_get_alone(serve: Serve, connect: Connect) -> None:
    async def picky(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403) if request.method == "HEAD" else await whole(request)

    site = await serve(picky)
    client, _ = await connect(site.url)
    assert (await client.head(AT, BLOB.digest, BlobKind.BLOB, ANONYMOUS)).size == len(CONTENT)
    assert site.seen[-1].headers["Range"] == "bytes=0-0"


async def test_lists_are_passed_through(serve: Serve, connect: Connect) -> None:
    async def tags(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"tags":["a"]}', headers={"Link": "</x>; rel=next", "X-Other": "1"})

    site = await serve(tags)
    client, _ = await connect(site.url)
    listing = await client.listing(AT, "tags/list", "n=1", ANONYMOUS)
    assert listing.body == b'{"tags":["a"]}'
    assert listing.links == ("</x>; rel=next",)
    assert "X-Other" not in listing.headers
    assert site.seen[0].path_qs == "/v2/team/app/tags/list?n=1"


async def test_right_bytes_under_a_coding_that_they_do_not_have(serve: Serve, connect: Connect) -> None:
    async def coded(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT, headers={"Content-Encoding": "x-gzip"})

    client, _ = await connect((await serve(coded)).url)
    assert await read(client) == (0, CONTENT)
