"""Readers of text that clients, registries and token servers write: paths, headers, small JSON documents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

from aiohttp import hdrs, web
from yarl import URL

from peer.origin import OriginDenied, OriginUnavailable
from proxy.authorization import Authorizer, token_scope
from proxy.body import content_length, parse_content_range
from proxy.challenge import parse_challenges
from proxy.destinations import Authority, Destinations, InvalidAuthority, TunnelSettings, is_pull
from proxy.doorway import MAX_HEAD, BadConnect, parse_connect
from proxy.errors import RequestError, UnsatisfiableRange
from proxy.identity import ANONYMOUS, Identity, claimed_name, client_identity
from proxy.limits import parse_rate_limit
from proxy.links import parse_links
from proxy.listings import next_page
from proxy.manifests import accepted
from proxy.naming import BlobTarget, CatalogTarget, ManifestTarget, Namer, ReferrersTarget, TagsTarget
from proxy.parts import select
from proxy.responses import not_modified
from proxy.retry import parse_retry_after
from proxy.settings import UpstreamSettings
from proxy.tokens import InvalidTokenAnswer, Token, TokenScope, parse_token
from shoal.descriptor import InvalidManifest, Manifest, parse_media_type
from shoal.digest import Digest, InvalidDigest
from shoal.ranges import MAX_RANGES, RangeNotSatisfiable, parse_ranges
from shoal.reference import InvalidReference, Location, Reference, Registry
from tests.fuzz.target import Target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HUB = Registry("docker.io")
DIGEST = Digest.of(b"content")


def text_of(data: bytes) -> str:
    """Bytes of a header or a request line as aiohttp has them."""
    return data.decode("utf-8", "surrogateescape")


def split(data: bytes, mark: bytes = b"\n") -> tuple[str, str]:
    """Two texts of one input."""
    before, _, behind = data.partition(mark)
    return text_of(before), text_of(behind)


def reference(data: bytes) -> None:
    text = text_of(data)
    with contextlib.suppress(InvalidReference):
        parsed = Reference.parse(text)
        assert Reference.parse(str(parsed)) == parsed
        place = Location.parse(parsed.registry, parsed.repository)
        assert (place.registry, place.repository) == (parsed.registry, parsed.repository)
        assert str(parsed).isascii()
        assert "//" not in str(parsed)
    with contextlib.suppress(InvalidDigest):
        digest = Digest(text)
        assert f"{digest.algorithm}:{digest.hex}" == text
        assert digest.hex.isascii()
        assert len(digest.hex) == 2 * digest.hasher().digest_size


def ranges(data: bytes) -> None:
    header, (first, *_) = text_of(data[1:]), data[:1] or b"\0"
    size = (0, 1, 10, 1000, 1 << 44)[first % 5]
    try:
        found = parse_ranges(header, size)
    except RangeNotSatisfiable:
        return
    if found is None:
        return
    assert 0 < len(found) <= MAX_RANGES
    end = 0
    for each in sorted(found, key=lambda each: each.start):
        assert end <= each.start < each.end <= size
        end = each.end
        assert each.length == each.end - each.start


def multipart(data: bytes) -> None:
    """The answer to a request with any `Range` and `If-Range`: its length is what was announced."""
    header, condition = split(data)
    headers = {hdrs.RANGE: header} | ({hdrs.IF_RANGE: condition} if condition else {})
    request = cast("web.Request", SimpleNamespace(headers=headers))
    content = bytes(range(256))
    try:
        selection = select(request, DIGEST, len(content), "text/plain")
    except UnsatisfiableRange:
        return
    body = selection.body(content)
    assert len(body) == selection.length == int(selection.headers["Content-Length"])
    assert selection.status == 206 or body == content


def content_headers(data: bytes) -> None:
    """What an origin says of the body that it sends."""
    text = text_of(data)
    length, kind = content_length({"Content-Length": text}), parse_media_type(text)
    assert length is None or length >= 0
    assert kind.isascii()
    assert len(kind) < 256
    with contextlib.suppress(OriginUnavailable):
        found, size = parse_content_range(text)
        assert 0 <= found.start < found.end
        assert size is None or size >= 0


def waiting(data: bytes) -> None:
    """`Retry-After` and the headers of rate limits."""
    text, other = split(data)
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
    limit = parse_rate_limit({"RateLimit-Limit": text, "RateLimit-Remaining": other})
    assert limit is None or all(number is None or number >= 0 for number in (limit.limit, limit.remaining))


def conditions(data: bytes) -> None:
    """What a client takes and has: `Accept` and `If-None-Match`."""
    accept, held = split(data)
    taken = accepted([accept, held])
    assert taken.isprintable()
    request = cast("web.Request", SimpleNamespace(headers={hdrs.IF_NONE_MATCH: held}))
    answer = not_modified(request, DIGEST)
    assert answer is None or answer.status == 304


async def _no_token(_: URL, __: TokenScope, ___: Identity) -> Token:
    raise OriginUnavailable("no token server")


def challenge(data: bytes) -> None:
    """A 401's headers: what they ask for is asked of a server over TLS, or not at all."""
    headers, base = [text_of(line) for line in data.split(b"\n")[:4]], URL("https://registry.example")
    for each in parse_challenges(headers):
        assert each.scheme == each.scheme.lower()
        assert all(name == name.lower() for name in each.parameters)
        with contextlib.suppress(OriginDenied):
            assert URL(token_scope(each, "", base).realm).scheme == "https"
    authorizer = Authorizer(base, _no_token, lambda: 0.0)
    with contextlib.suppress(OriginDenied):
        authorizer.learn(headers, "a/b", ANONYMOUS, None)
    for header in authorizer.challenges("a/b"):
        header.encode()


def links(data: bytes) -> None:
    lines = [text_of(line) for line in data.split(b"\n")[:4]]
    for link in parse_links(lines):
        assert not set("<>") & set(link.target)
        assert all(relation == relation.lower() for relation in link.relations)
    page = next_page(lines, URL("/v2/a/tags/list?ns=quay.io"))
    assert page is None or page.isprintable()


def authorization(data: bytes) -> None:
    name = claimed_name([text_of(data)])
    assert name is None or (name.isprintable() and len(name) < 256)
    with contextlib.suppress(RequestError):
        found = client_identity([text_of(data)])
        assert found is not None
        assert found.authorization is not None
        assert found.authorization.isprintable()
        assert client_identity([found.authorization]) == found


def naming(data: bytes) -> None:
    """A path and `ns=`: what the mirror reads as a pull is nowhere taken for something that is passed on."""
    path, ns = split(data)
    namer = Namer({"docker.io", "quay.io", "host:5000"}, HUB, {"hub": HUB}, takes_any=True)
    try:
        target = namer.parse(f"/v2/{path}", ns or None)
    except RequestError:
        is_pull(f"/v2/{path}")
        return
    match target:
        case CatalogTarget():
            return
        case ManifestTarget() | BlobTarget() | TagsTarget() | ReferrersTarget():
            location = target.location
    assert Location.parse(location.registry, location.repository) == location
    assert ".." not in location.repository
    assert is_pull(f"/v2/{path}")


_DESTINATIONS = Destinations(
    TunnelSettings(hosts=["other.example:8443"]), {"docker.io": UpstreamSettings(url="https://registry-1.docker.io")}
)


def connect(data: bytes) -> None:
    """The head of a CONNECT request."""
    with contextlib.suppress(BadConnect, InvalidAuthority):
        authority = Authority.parse(parse_connect(data[:MAX_HEAD]), 443)
        assert Authority.parse(str(authority), 443) == authority
        assert 0 < authority.port < 1 << 16
        _DESTINATIONS.decide("https", authority)


def token(data: bytes) -> None:
    with contextlib.suppress(InvalidTokenAnswer):
        found = parse_token(data)
        assert found.text.isascii()
        assert " " not in found.text
        assert found.lifetime > 0
        assert math.isfinite(found.lifetime)


def manifest(data: bytes) -> None:
    with contextlib.suppress(InvalidManifest):
        found = Manifest.parse(data)
        for each in (*found.blobs, *(child for child, _ in found.children)):
            assert 0 <= each.size < 1 << 63
            assert Digest(each.digest) == each.digest
            assert parse_media_type(each.media_type) == each.media_type
            assert each.media_type.isascii()


def _target(run: Callable[[bytes], None], inputs: int, name: str | None = None) -> Target:
    return Target(name or run.__name__.replace("_", "-"), run, inputs)


TARGETS = [
    _target(reference, 50_000),
    _target(ranges, 50_000),
    _target(multipart, 20_000),
    _target(content_headers, 50_000),
    _target(waiting, 50_000),
    _target(conditions, 30_000),
    _target(challenge, 50_000),
    _target(links, 50_000),
    _target(authorization, 50_000),
    _target(naming, 50_000),
    _target(connect, 50_000),
    _target(token, 50_000),
    _target(manifest, 50_000),
]
