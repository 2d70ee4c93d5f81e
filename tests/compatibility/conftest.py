"""The world of the matrix: registries over one storage, each client with a node of its own."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.images import BenchImage, write_image
from bench.origin import PROGRAM
from tests.compatibility.page import Outcome, page
from tests.world.built_clients import BUILT
from tests.world.certificates import Authority
from tests.world.clients import DEBIAN, Client
from tests.world.front import Front
from tests.world.images import Layout, debian_layers
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import USERS, Registry
from tests.world.tokens import TokenServer

ALL = os.environ.get("SHOAL_COMPATIBILITY") == "1"
"""Whether the clients that have to be built take part (`make compatibility`), or those of Debian alone."""

PAGE = os.environ.get("SHOAL_COMPATIBILITY_PAGE", "")
"""Where to write what was found; empty: nowhere."""

CLIENTS: tuple[type[Client], ...] = (*DEBIAN, *BUILT) if ALL else DEBIAN
LAYERS = [1_500_000, 300_000, 3_000_000]


@dataclass(frozen=True)
class Origins:
    """Real registries that serve the same images; each behind a front that counts."""

    storage: Registry
    """Open, without a front: images are pushed there, and it is what clients fall back to."""
    front: Front
    """Of the open one."""
    tokens: TokenServer
    token_front: Front
    """Of one that asks for tokens."""
    basic_front: Front
    """Of one that asks for name and password."""

    def image(self, name: str, sizes: list[int] | None = None) -> BenchImage:
        """An image `library/NAME:latest` of layers that no other image has."""
        return write_image(self.storage.root, f"library/{name}", sizes or LAYERS)

    def push(self, layout: Layout, descriptor: dict[str, object], name: str) -> str:
        """Push what was made in a layout as `library/NAME:latest`; returns its digest."""
        return layout.push(descriptor, self.storage.port, f"library/{name}:latest")


@pytest.fixture(scope="session")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origins]:
    require(PROGRAM)
    folder = tmp_path_factory.mktemp("origins")
    with ExitStack() as stack:
        tokens = TokenServer(Authority(folder / "authority"), USERS, {"alice": ["library/*"]})
        tokens.start(stack)
        storage = Registry(folder / "open").start(stack)
        by_token = Registry(folder / "token", storage.root, tokens=tokens).start(stack)
        by_password = Registry(folder / "basic", storage.root, htpasswd=True).start(stack)
        fronts = [Front(each.url).start(stack) for each in (storage, by_token, by_password)]
        yield Origins(storage, fronts[0], tokens, fronts[1], fronts[2])


@dataclass(frozen=True)
class Debian:
    """A real image."""

    digest: str
    sizes: dict[str, int]
    """Of its blobs, by digest."""


@pytest.fixture(scope="session")
def debian(origins: Origins, tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """Pushed as `library/debian:latest`."""
    layout = Layout(tmp_path_factory.mktemp("debian") / "layout")
    return Debian(origins.push(layout, layout.image(debian_layers()), "debian"), layout.sizes())


@pytest.fixture(scope="session", params=CLIENTS, ids=lambda kind: kind.name)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    kind: type[Client] = request.param
    kind.require()
    with ExitStack() as stack:
        yield kind(stack)


@pytest.fixture(scope="session")
def node(client: Client, origins: Origins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node without a supernode that asks the open registry for each tag."""
    with ExitStack() as stack:
        node = lone_node(tmp_path_factory.mktemp("node"), origins.front.url)
        node.start(stack)
        yield node


def lone_node(folder: Path, upstream: str) -> Node:
    """A node without a supernode whose default upstream is asked for a tag each time."""
    return Node(folder, {"docker.io": upstream}, settings={"SHOAL_PROXY__TAG_FRESHNESS": "0s"})


_found: list[Outcome] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what becomes of tests that the page tells of."""
    report = yield
    callspec = getattr(item, "callspec", None)
    is_over = report.when == "call" or (report.when == "setup" and not report.passed)
    if is_over and callspec is not None and isinstance(item, pytest.Function):
        parameters = dict(callspec.params)
        subject = parameters.pop("client", None)
        rest = [str(value) for value in parameters.values()]
        name = subject.name if subject is not None else (rest.pop(0) if rest else "")
        situation = item.originalname + (f"[{rest[0]}]" if rest else "")
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        properties = tuple((str(key), str(value)) for key, value in report.user_properties)
        _found.append(Outcome(name, situation, report.outcome, reason, properties))
    return report


def pytest_sessionfinish() -> None:
    """Write the page."""
    if PAGE:
        order = [client.name for client in CLIENTS]
        found = sorted(_found, key=lambda each: order.index(each.subject) if each.subject in order else len(order))
        Path(PAGE).write_text(page(found))
