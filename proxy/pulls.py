"""The pulls of this node's clients that began last: which requests belong together, and where their time went.

A pull is one client's requests for one image: a manifest by its tag, what that names, and so on, until it has been
quiet for a while. No I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from peer.account import Account
from peer.arrivals import Brought
from peer.sink import Source
from proxy.timeline import Timeline
from shoal.digest import Digest
from shoal.reference import Location, Tag

MAX_PULLS, MAX_REQUESTS = 200, 512
"""Pulls that are remembered, and requests of one of them that are told one by one."""
MAX_WEIGHT, _REQUEST_WEIGHT = 60_000, 8
"""What all pulls together may weigh, about 10 MiB: a digest that one names is one, and a request as much as so many."""
CLIENT_LEFT = 499
"""The status of a request whose client left before its end, as nginx has it."""
_MAX_FAILURE = 200
"""Characters of a reason."""
Came = Callable[[Digest, float], Sequence[Brought]]
"""Who has brought a blob to this node since a time of the monotonic clock."""

_MAX_NAMED = 8192
"""Digests that belong to one pull."""
_QUIET_SECONDS = 60.0
"""A client that asks for nothing for so long has ended its pull: unpacking a layer seldom takes longer."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: an address, and what it says to be, as `docker/28.1`."""

    address: str
    agent: str


@dataclass(eq=False, slots=True)
class Request:
    """One request of a pull."""

    kind: str
    """`manifest` or `blob`."""
    method: str
    reference: Tag | Digest
    account: Account
    digest: Digest | None = None
    size: int = 0
    """Bytes of all of it; 0 as long as that is not known."""
    status: int = 0
    failure: str = ""
    """Why it was not answered, or not to its end, as far as that is known."""
    ended_at: float | None = None
    brought: tuple[Brought, ...] = ()
    """What came to this node of it until its end, since the pull began, and from whom."""


@dataclass(eq=False, slots=True)
class Pull:
    """Times are in seconds of a monotonic clock; `began`: since the epoch."""

    client: Client
    location: Location
    reference: Tag | Digest
    """What it asked for first."""
    began: float
    timeline: Timeline
    came: Came
    digest: Digest | None = None
    """The manifest or index that its reference stands for."""
    named: set[Digest] = field(default_factory=set)
    """The manifests that were read, and all that they name."""
    requests: list[Request] = field(default_factory=list)
    left_out: int = 0
    """Requests that are counted in sums alone."""
    given: dict[Source, int] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """As people write it."""
        mark = "@" if isinstance(self.reference, Digest) else ":"
        return f"{self.location.registry}/{self.location.repository}{mark}{self.reference}"

    @property
    def seconds(self) -> float:
        """From its begin to the end of its last request."""
        return self.timeline.ended_at - self.timeline.began_at

    @property
    def weight(self) -> int:
        """What it takes in memory."""
        return _REQUEST_WEIGHT * len(self.requests) + len(self.named)

    def brought(self, request: Request) -> Sequence[Brought]:
        """What came of what a request is for, since the pull began and until the request's end."""
        if request.ended_at is not None or request.digest is None:
            return request.brought
        return self.came(request.digest, self.timeline.began_at)

    def is_over(self, now: float) -> bool:
        """Whether its client has asked for nothing for a while."""
        return not self.timeline.is_open and now - self.timeline.ended_at > _QUIET_SECONDS


class Record:
    """One request of a pull, for who answers it."""

    def __init__(self, pull: Pull, request: Request) -> None:
        self._pull = pull
        self._request = request

    def names(self, digest: Digest, named: Iterable[Digest] = ()) -> None:
        """The manifest that is asked for is this one, and names these, as far as that is known."""
        pull = self._pull
        self._request.digest = digest
        if self._request.reference == pull.reference:
            pull.digest = digest
        for each in (digest, *named):
            if len(pull.named) < _MAX_NAMED:
                pull.named.add(each)

    def end(self, status: int, size: int, now: float, failure: str = "") -> None:
        """The request is over, at a time of the monotonic clock; `size`: what was announced."""
        pull, request = self._pull, self._request
        pull.timeline.close(request.account, now)
        request.brought = tuple(pull.brought(request))
        request.status, request.size, request.failure, request.ended_at = status, size, failure[:_MAX_FAILURE], now
        for source, count in request.account.given.items():
            pull.given[source] = pull.given.get(source, 0) + count


class Pulls:
    """The pulls that began last."""

    def __init__(self, came: Came = lambda _, __: ()) -> None:
        self._came = came
        self._pulls: deque[Pull] = deque(maxlen=MAX_PULLS)

    def __iter__(self) -> Iterator[Pull]:
        """The newest first."""
        return reversed(self._pulls)

    def begin(
        self,
        client: Client,
        location: Location,
        kind: str,
        method: str,
        reference: Tag | Digest,
        account: Account,
        now: float,
    ) -> Record:
        """A client asks for something. `now`: since the epoch; the account has the other clock's time."""
        at = account.began_at
        pull = self._running(client, location, kind, reference, at)
        if pull is None:
            pull = Pull(client, location, reference, now, Timeline(at), self._came)
            while sum(each.weight for each in self._pulls) > MAX_WEIGHT:
                self._pulls.popleft()
            self._pulls.append(pull)
        request = Request(kind, method, reference, account)
        if isinstance(reference, Digest):
            request.digest = reference
        pull.timeline.open(account, at)
        if len(pull.requests) < MAX_REQUESTS:
            pull.requests.append(request)
        else:
            pull.left_out += 1
        return Record(pull, request)

    def last(self, location: Location | None, target: Tag | Digest | None) -> Pull | None:
        """The last pull of an image, or without one, of any."""
        for pull in self:
            if location is None or (pull.location == location and target in (pull.reference, pull.digest)):
                return pull
        return None

    def _running(
        self, client: Client, location: Location, kind: str, reference: Tag | Digest, at: float
    ) -> Pull | None:
        """The pull to which a request belongs."""
        for pull in self:
            if pull.client != client or pull.location != location or pull.is_over(at):
                continue
            if reference in pull.named:
                return pull
            if kind == "manifest" and reference == pull.reference and not _has_blobs(pull):
                return pull  # HEAD, then GET
        return None


def _has_blobs(pull: Pull) -> bool:
    return any(request.kind == "blob" for request in pull.requests)
