"""The dashboard in a browser, during a real swarm and after it.

Pictures of its pages are left in `tests.world.browser.PICTURES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.world.browser import Browser
from tests.world.client import get
from tests.world.crowd import BLOB, ZONES, start_crowd
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

MIB = 1 << 20
HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ("rack-a1", "rack-a2", "rack-b1", HOSTILE)
WIDE, PHONE = (1280, 860), (360, 740)
FOREIGN = "shoal.example"
IMAGE, OTHER = f"{UPSTREAM}/{REPOSITORY}:latest", f"{UPSTREAM}/library/other:latest"


@dataclass
class Cluster:
    """A supernode, four nodes, and their slow origin."""

    supernode: Supernode
    nodes: list[Node]
    origin: ScriptedOrigin
    image: str
    """The digest of an image that only one test pulls."""
    layer: str
    """Its largest layer."""
    content: bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.supernode.operations_port}"

    @property
    def token(self) -> str:
        return (self.supernode.folder / "state/operator-token").read_text().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield start(tmp_path_factory.mktemp("cluster"), stack)


def start(folder: Path, stack: ExitStack) -> Cluster:
    supernode = Supernode(folder / "supernode")
    supernode.start(stack)
    origin = ScriptedOrigin(total_rate=2 * MIB)
    content = random_bytes(16 * MIB, "large layer")
    image = origin.push(content, random_bytes(3 * MIB, "small layer"))
    layer = next(digest for digest, each in origin.contents.items() if each is content)
    address = origin.start(stack)
    nodes = []
    for place, name in enumerate(NAMES):
        settings = {"SHOAL_PEER__NAME": name, "SHOAL_PEER__LABELS": json.dumps({"rack": "ab"[place // 2]})}
        node = Node(folder / f"node{place}", {UPSTREAM: address}, supernode.port, settings)
        node.start(stack)
        nodes.append(node)
    return Cluster(supernode, nodes, origin, image, layer, content)


@pytest.fixture
def browser(cluster: Cluster, stack: ExitStack) -> Browser:
    browser = Browser.start(stack, cluster.url)
    browser.resize(*WIDE)
    return browser


@pytest.fixture
def calm(browser: Browser) -> Iterator[None]:
    """No script of the page has failed, and nothing was against its policy."""
    yield
    assert list(browser.complaints()) == []


def pictures(browser: Browser, name: str) -> None:
    """Pictures of the page that is shown: light, dark, and on a phone, where nothing is wider than the screen."""
    for scheme in ("dark", "light"):
        browser.colours(scheme)
        browser.until(lambda: browser.run("return document.documentElement.dataset.theme") == scheme, scheme)  # noqa: B023
        browser.picture(f"{name}-{scheme}")
    browser.resize(*PHONE)
    width = browser.run("return document.documentElement.scrollWidth")
    browser.picture(f"{name}-phone")
    browser.resize(*WIDE)
    assert width <= PHONE[0], name


def shares(browser: Browser) -> list[float]:
    """Of each node in the picture of a swarm, the part of its pieces that it has."""
    return [
        float(share) for share in browser.run("return [...document.querySelectorAll('.dot')].map(d => d.dataset.share)")
    ]


def test_a_swarm_is_seen_as_it_moves_and_the_cluster_afterwards(
    cluster: Cluster, browser: Browser, pool: ThreadPoolExecutor, calm: None
) -> None:
    for node in cluster.nodes:
        get(node, f"/v2/{REPOSITORY}/manifests/latest")
    pulls = [pool.submit(get, node, blob_path(cluster.layer)) for node in cluster.nodes]
    browser.go(f"#/swarms/{cluster.layer}")
    browser.until(
        lambda: browser.all(".edge.from-origin") and browser.all(".edge.from-node"), "transfers of both kinds"
    )
    assert len(browser.all(".dot")) == len(cluster.nodes)
    earlier = shares(browser)
    assert max(earlier) < 1
    browser.until(
        lambda: all(now > before for now, before in zip(shares(browser), earlier, strict=True)), "pieces fill"
    )
    assert browser.all(".edge.from-node")[0].value_of_css_property("animation-name") == "flow"
    assert len(browser.all("table .strip")) == len(cluster.nodes)
    pictures(browser, "swarm-moving")
    browser.go()
    browser.until(lambda: browser.all("tbody progress") and browser.has("MB/s"), "the overview shows what moves")
    pictures(browser, "overview-moving")
    browser.go(f"#/swarms/{cluster.layer}")

    assert all(pull.result().brings(cluster.content) for pull in pulls)
    browser.until(lambda: shares(browser) == [1.0] * 4, "all nodes are complete")
    browser.until(lambda: not browser.all(".edge"), "nothing moves")
    assert len(browser.all(".dot.complete")) == 4
    browser.until(lambda: browser.has("All nodes of the swarm have what they want", "#said"), "it is said, too")

    pages = {
        "overview": "",
        "nodes": "#/nodes",
        "images": "#/images",
        "swarms": "#/swarms",
        "preheats": "#/preheats",
        "swarm": f"#/swarms/{cluster.layer}",
        "image": f"#/images/{cluster.image}",
    }
    seen = {
        "overview": "Saved from origins",
        "nodes": HOSTILE,
        "images": IMAGE,
        "swarms": "rests",
        "preheats": "no preheat yet",
        "swarm": HOSTILE,
        "image": "layer",
    }
    for name, address in pages.items():
        browser.go(address)
        browser.until(lambda: browser.has(seen[name]), f"{seen[name]} on {name}")  # noqa: B023
        pictures(browser, name)
        assert not browser.all("main img")
    marks = browser.run("return [...document.querySelectorAll('tbody tr .marks')].map(each => each.children.length)")
    assert marks == [3] * 4  # the configuration and two layers, of each node


def test_a_node_is_reached_and_left_by_keys_alone(cluster: Cluster, browser: Browser, calm: None) -> None:
    browser.go()
    browser.one(".figure")
    browser.press(Keys.TAB)
    assert browser.focused == "Skip to the content"
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    browser.go("#/images")
    browser.tab_to("Nodes")
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.has("rack-a2"), "the nodes")
    assert browser.focused == "Nodes"
    assert browser.run("return document.querySelector('nav [aria-current]').innerText") == "Nodes"
    browser.tab_to("rack-a2")
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.has("Identity"), "the node")
    assert browser.focused == "rack-a2"
    assert browser.driver.title == "rack-a2 · Shoal"
    pictures(browser, "node")
    browser.until(lambda: browser.focused == "rack-a2", "pushes leave the focus where it is")
    browser.driver.back()
    browser.until(lambda: browser.focused == "Nodes", "back at the nodes")
    browser.tab_to("")  # the search
    browser.press("rack=b", Keys.ENTER)
    browser.until(lambda: browser.has("2 of 4"), "the nodes of a rack")
    assert browser.has(HOSTILE)


def test_by_another_name_the_page_wants_the_token_and_preheats_with_it(cluster: Cluster, stack: ExitStack) -> None:
    browser = Browser.start(stack, f"http://{FOREIGN}:{cluster.supernode.operations_port}", name=FOREIGN)
    browser.resize(*WIDE)
    browser.go("#/preheats")
    browser.until(lambda: browser.has("This connection is not encrypted"), "the sign-in")
    pictures(browser, "sign-in")
    browser.one("input[name=token]").send_keys("no token at all", Keys.ENTER)
    browser.until(lambda: browser.has("This is not the operator"), "the refusal")
    assert not browser.has("rack-a1")
    browser.one("input[name=token]").clear()
    browser.one("input[name=token]").send_keys(cluster.token, Keys.ENTER)
    browser.one("textarea[name=images]")
    assert "shoal_session" not in browser.run("return document.cookie")
    browser.driver.refresh()
    images = browser.one("textarea[name=images]")
    cluster.origin.push(random_bytes(12 * MIB, "preheated"), repository="library/other")
    images.send_keys(OTHER)
    browser.one("button.primary").click()
    browser.until(lambda: browser.has("running") and browser.has(OTHER), "the preheat")
    browser.until(
        lambda: any(float(each.get_attribute("value") or 0) > 0 for each in browser.all("tbody progress")), "progress"
    )
    pictures(browser, "preheat")
    browser.one("[data-action=cancel]").click()
    browser.until(lambda: browser.has("cancelled", "h1 + .badge"), "its end")
    browser.one("#session").click()
    browser.until(lambda: browser.all("input[name=token]"), "signed out")
    browser.driver.refresh()
    browser.until(lambda: browser.all("input[name=token]"), "for good")
    refused = [each for each in browser.complaints() if "401" not in each]
    assert refused == []


def test_a_page_says_that_its_supernode_is_gone_and_goes_on_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory, stack: ExitStack
) -> None:
    supernode = Supernode(tmp_path_factory.mktemp("supernode"))
    with ExitStack() as running:
        supernode.start(running)
        browser = Browser.start(stack, f"http://127.0.0.1:{supernode.operations_port}")
        browser.go()
        browser.until(lambda: browser.has("No node has joined yet"), "what to do without nodes")
        assert browser.has("No origin has been asked yet")
        for page, text in (
            ("swarms", "No node has or wants a blob yet"),
            ("images", "No node has told of an image yet"),
        ):
            browser.go(f"#/{page}")
            browser.until(lambda: browser.has(text), text)  # noqa: B023
        browser.until(lambda: browser.has("live", "#connection"), "the lamp")
    browser.until(lambda: browser.has("Trying again in 3 s", "#trouble"), "the trouble")
    pictures(browser, "lost")
    supernode.start(stack)
    browser.until(lambda: browser.has("live", "#connection") and not browser.has("Trying", "body"), "it goes on")


def test_a_thousand_nodes_stay_usable(tmp_path_factory: pytest.TempPathFactory, stack: ExitStack) -> None:
    supernode = Supernode(tmp_path_factory.mktemp("supernode"))
    supernode.start(stack)
    start_crowd(supernode, 1000, 150, stack)
    browser = Browser.start(stack, f"http://127.0.0.1:{supernode.operations_port}")
    browser.resize(*WIDE)
    browser.go("#/nodes")
    browser.until(lambda: browser.has("50 of 1,000"), "the first page")
    assert len(browser.all("tbody tr")) == 50
    pictures(browser, "nodes-thousand")
    browser.tab_to("Next", most=120)
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.has("100 of 1,000") and browser.has("node-0099"), "the second page")
    browser.one("input[name=find]").send_keys("rack=r7", Keys.ENTER)
    browser.until(lambda: browser.has("25 of 1,000"), "those of a rack")
    browser.go("#/nodes?order=store")
    browser.until(lambda: browser.has("node-0999", "tbody tr th"), "those that store most come first")
    browser.go(f"#/swarms/{BLOB}")
    browser.until(lambda: len(browser.all(".dot")) == ZONES, "a dot for each zone")
    browser.until(lambda: browser.all(".edge.from-node"), "transfers between zones")
    pictures(browser, "swarm-thousand")
    assert list(browser.complaints()) == []
