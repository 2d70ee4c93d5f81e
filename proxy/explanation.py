"""Why a pull took as long as it did: its account as JSON, and a verdict in a sentence or two. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from http.client import responses

from aiohttp import hdrs

from peer.account import FLOWING, Cause
from peer.arrivals import Brought
from peer.sink import Source
from proxy.pulls import CLIENT_LEFT, Pull, Request
from shoal.digest import Digest
from shoal.units import format_size

WORDS: Mapping[Cause, str] = {
    Cause.CLIENT: "while the client took what was there",
    Cause.PEERS: "while neighbours were sending",
    Cause.ORIGIN: "while the origin was sending",
    Cause.TAG: "waiting for what the reference stands for, or for leave to give it",
    Cause.RESOLVE: "waiting for the supernode to say what the reference stands for",
    Cause.TOKEN: "waiting for credentials of the origin, or for its token server",
    Cause.ORIGIN_ANSWER: "waiting for the origin's first byte",
    Cause.ORIGIN_STALLED: "waiting for the origin, which had begun and sent nothing more",
    Cause.ORIGIN_FAILED: "waiting for the next try, since the origin had failed",
    Cause.RATE_LIMITED: "waiting, since the origin is at its rate limit (429)",
    Cause.HANDOUT: "waiting for the supernode to say who has it",
    Cause.SUPERNODE_GONE: "waiting for the supernode, which was not reached",
    Cause.LEASE: "waiting for a turn at the origin, which others had before",
    Cause.NEIGHBOUR: "waiting for a connection to a neighbour",
    Cause.NEIGHBOUR_BUSY: "waiting for neighbours that were busy",
    Cause.NEIGHBOUR_SILENT: "waiting for a neighbour that sent nothing",
    Cause.ELSEWHERE: "waiting for what other nodes were fetching from the origin",
    Cause.LIMIT: "waiting for this node's own limits (`shoal limit`)",
    Cause.ROOM: "waiting for a place, since many blobs were on their way",
    Cause.DISK: "waiting for this node's disk and processor to check and write",
    Cause.VERIFYING: "waiting for the check of the whole blob",
    Cause.NODE: "in this node itself",
    Cause.BETWEEN: "between the client's requests, while it asked for nothing, as when it unpacks",
}
"""What each cause is called behind "1.2 s of 3.4 s were spent"."""

_TELLING, _ENOUGH = 0.25, 0.05
"""The part of a pull's time above which a second cause is told in the verdict, and that below which waits are not worth
a word."""
_WORTH = 0.005
"""The part of a pull's bytes below which a source is not told in the verdict."""
_MOST_ENDS = 3
"""Ways in which requests have failed that are told in the verdict."""
_SHORT = 0.05
"""Seconds; what took no longer needs no reasons."""

_WHOLE = frozenset({200, 206})
_UNCHANGED, _UNKNOWN = 304, 401
_LEAST_SHOWN = 0.0005
"""Seconds; less would be shown as 0."""

Shown = dict[str, object]


def summary(pull: Pull, now: float) -> Shown:
    """A pull in short. `now`: of the clock of its timeline."""
    return {
        "image": pull.image,
        "digest": pull.digest,
        "client": pull.client.address,
        "agent": pull.client.agent,
        "began": datetime.fromtimestamp(pull.began, UTC).isoformat(timespec="milliseconds"),
        "seconds": round(_seconds(pull, now), 3),
        "running": pull.timeline.is_open,
        "failed": len(_failed(pull)),
        "bytes": sum(_given(pull).values()),
        "sources": [dict(zip(("kind", "name", "bytes"), source, strict=True)) for source in _sources(pull)],
        "verdict": verdict(pull, now),
    }


def explanation(pull: Pull, now: float) -> Shown:
    """All that is known of a pull; seconds of its requests are from its begin."""
    failed = _failed(pull)
    return {
        **summary(pull, now),
        "causes": _causes(_by_cause(pull, now)),
        "requests": [_request(each, pull.timeline.began_at, now, failed=each in failed) for each in pull.requests],
        "requests_left_out": pull.left_out,
    }


def verdict(pull: Pull, now: float) -> str:
    """What took the time, and from where the bytes came."""
    seconds, given = _seconds(pull, now), sum(_given(pull).values())
    begin = f"It is running since {seconds:.1f} s." if pull.timeline.is_open else f"It took {_time(seconds)}."
    sentences = [begin, _reasons(pull, now, seconds), _origins(pull, given, seconds), _failures(pull)]
    return " ".join(filter(None, sentences))


def _reasons(pull: Pull, now: float, seconds: float) -> str:
    causes = sorted(_by_cause(pull, now).items(), key=lambda entry: -entry[1])
    if not causes or seconds < _SHORT:
        return ""
    (first, longest), *others = causes
    text = f"{_time(longest)} of that were spent {WORDS[first]}{_where(pull, first)}"
    if others and others[0][1] > _TELLING * seconds:
        second, also = others[0]
        text += f", and {_time(also)} {WORDS[second]}{_where(pull, second)}"
    waited = sum(spent for cause, spent in causes if cause not in FLOWING)
    if first in FLOWING and waited < _ENOUGH * seconds:
        text += "; waits were short"
    return text + "."


def _where(pull: Pull, cause: Cause) -> str:
    """The one request that waited for most of this, where the others hardly did."""
    order = sorted(pull.requests, key=lambda request: -request.account.seconds.get(cause, 0.0))
    longest, *others = (request.account.seconds.get(cause, 0.0) for request in order)
    if not others or cause in FLOWING or longest < max(_SHORT, 2 * others[0]):
        return ""
    return f" ({_called(pull, order[0])})"


def _called(pull: Pull, request: Request) -> str:
    if request.kind == "manifest":
        return f"{request.method} of the manifest"
    blobs = list(dict.fromkeys(each.reference for each in pull.requests if each.kind == "blob"))
    return f"blob {blobs.index(request.reference) + 1} of {len(blobs)}, {str(request.reference)[:19]}"


def _origins(pull: Pull, given: int, seconds: float) -> str:
    """From where the bytes came."""
    if not given:
        return ""
    sources = _sources(pull)
    came: dict[str, int] = {}
    for kind, _, count in sources:
        came[kind] = came.get(kind, 0) + count
    total = sum(came.values()) or 1
    if came.keys() == {"store"}:
        return f"All of its {format_size(given)} were in this node's store."
    texts: list[str] = []
    for kind, count in sorted(came.items(), key=lambda entry: -entry[1]):
        if count < _WORTH * total:
            continue
        names = [name for each, name, _ in sources if each == kind]
        verb = "" if texts else " came"
        texts.append(f"{count / total:.0%}{verb} from {_place(kind, names)}")
    rate = f", at {format_size(given / seconds)}/s" if seconds >= _SHORT else ""
    return f"Of {format_size(given)}, {_listed(texts)}{rate}."


def _place(kind: str, names: list[str]) -> str:
    match kind:
        case "store":
            return "this node's store"
        case "origin":
            return f"the origin {' and '.join(names[:2])}"
        case _:
            return "one neighbour" if len(names) == 1 else f"{len(names)} neighbours"


def _failures(pull: Pull) -> str:
    failed = _failed(pull)
    if not failed:
        return ""
    ends = sorted(set(map(_end, failed)))
    return f"{len(failed)} of {len(pull.requests)} requests did not end well ({_some(ends)})."


def _end(request: Request) -> str:
    """How a request ended that has failed, and why."""
    if request.status == CLIENT_LEFT:
        return "its client left"
    if request.status in _WHOLE:
        end = "cut short"
    elif request.status:
        end = f"{request.status} {responses.get(request.status, '')}".rstrip()
    else:
        end = "never answered"
    return f"{end}: {request.failure}" if request.failure else end


def _some(ends: list[str]) -> str:
    told = "; ".join(ends[:_MOST_ENDS])
    return f"{told}; and {len(ends) - _MOST_ENDS} other reasons" if len(ends) > _MOST_ENDS else told


def _failed(pull: Pull) -> list[Request]:
    """The requests that did not end well. Who is asked who he is says so the next time: what he is told last counts."""
    last = {request.reference: request for request in pull.requests}
    return [
        request
        for request in pull.requests
        if _has_failed(request) and (request.status != _UNKNOWN or request is last[request.reference])
    ]


def _has_failed(request: Request) -> bool:
    if request.ended_at is None:
        return False
    given = sum(request.account.given.values())
    if request.status in _WHOLE:
        return request.method == hdrs.METH_GET and given < request.size
    return request.status != _UNCHANGED


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _seconds(pull: Pull, now: float) -> float:
    return (now if pull.timeline.is_open else pull.timeline.ended_at) - pull.timeline.began_at


def _by_cause(pull: Pull, now: float) -> Mapping[Cause, float]:
    if pull.timeline.is_open:
        pull.timeline.settle(now)
    return pull.timeline.seconds


def _given(pull: Pull) -> Mapping[Source, int]:
    """Bytes that went to the client, those of requests that run among them."""
    given = dict(pull.given)
    for request in pull.requests:
        if request.ended_at is None:
            for source, count in request.account.given.items():
                given[source] = given.get(source, 0) + count
    return given


def _sources(pull: Pull) -> list[tuple[str, str, int]]:
    """Who brought what the client was given: kind, name and bytes, the most first. What came ahead of the client's own
    requests has been brought, too; the rest was stored before."""
    brought: dict[tuple[str, str], int] = {}
    stored = 0
    asked: dict[Digest | None, list[Request]] = {}
    for request in pull.requests:
        asked.setdefault(request.digest, []).append(request)
    for requests in asked.values():
        given = sum(sum(request.account.given.values()) for request in requests)
        came = _limited(max(map(pull.brought, requests), key=_bytes), given)
        for each in came:
            kind = "origin" if each.is_origin else "peer"
            brought[kind, each.name] = brought.get((kind, each.name), 0) + each.bytes
        stored += given - _bytes(came)
    found = [(kind, name, count) for (kind, name), count in brought.items()]
    if stored > 0:
        found.append(("store", "", stored))
    return sorted(found, key=lambda source: -source[2])


def _limited(came: Sequence[Brought], given: int) -> Sequence[Brought]:
    """What was brought, but no more than was given: pieces may come twice."""
    total = _bytes(came)
    if total <= given:
        return came
    return [each._replace(bytes=each.bytes * given // total) for each in came]


def _bytes(came: Iterable[Brought]) -> int:
    return sum(each.bytes for each in came)


def _causes(seconds: Mapping[Cause, float]) -> list[Shown]:
    order = sorted(seconds.items(), key=lambda entry: -entry[1])
    return [
        {"cause": cause, "seconds": round(spent, 3), "flows": cause in FLOWING, "meaning": WORDS[cause]}
        for cause, spent in order
        if spent >= _LEAST_SHOWN
    ]


def _request(request: Request, began_at: float, now: float, *, failed: bool) -> Shown:
    account = request.account
    ended_at = now if request.ended_at is None else request.ended_at
    first = account.first_byte_at
    return {
        "kind": request.kind,
        "method": request.method,
        "reference": request.reference,
        "digest": request.digest,
        "status": request.status,
        "end": _end(request) if failed else "",
        "size": request.size,
        "began_seconds": round(account.began_at - began_at, 3),
        "first_byte_seconds": None if first is None else round(first - account.began_at, 3),
        "seconds": round(ended_at - account.began_at, 3),
        "given": dict(account.given),
        "brought": [{"name": each.name, "origin": each.is_origin, "bytes": each.bytes} for each in request.brought],
        "causes": _causes(account.seconds),
    }
