"""`docs/compatibility.md`, written from what the tests found (`make compatibility`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.world.tools import TOOLS

SITUATIONS = {
    "test_cold": ("cold", "a real image of Debian is pulled, and each byte leaves the origin once"),
    "test_warm": ("warm", "it is pulled again, and of the origin only the tag is asked"),
    "test_private[token]": (
        "private, token",
        "the registry wants tokens: the client's own login gets the image; a wrong password, another user's and none "
        "do not, neither before the node has the image nor after",
    ),
    "test_private[basic]": ("private, password", "the same at a registry that wants name and password"),
    "test_index": ("index", "an image for two platforms"),
    "test_artifact": ("artifact", "what belongs to an image is listed, where the client can, and pulled"),
    "test_referrers_by_tag": ("referrers by tag", "it is listed at a registry that knows no referrers"),
    "test_cut": ("cut", "the origin cuts each blob once, and the client gets it whole"),
    "test_upstream_fails_warm": ("5xx, warm", "the origin answers 503 to everything, and the node has the image"),
    "test_upstream_fails_cold[manifests]": (
        "5xx, manifests",
        "the origin answers 503 to the node, which has nothing: the client goes on to the origin by itself within "
        "20 s, or, where it never does so, fails and gets the image later",
    ),
    "test_upstream_fails_cold[blobs]": ("5xx, blobs", "the same with blobs alone"),
    "test_swarm_gone": ("swarm gone", "supernode and neighbour are killed in mid-pull"),
    "test_a_client_asks_as_it_was_recorded": (
        "manners",
        "it asks a mirror for what it was recorded to ask for (`tests/compatibility/test_manners.py`)",
    ),
}
"""What a column is called and what it means, by test and parameter."""

_WORDS = {"passed": "yes", "failed": "**fails**", "skipped": "n/a"}


@dataclass(frozen=True)
class Outcome:
    """What became of one test."""

    subject: str
    """A client's or an origin's name."""
    situation: str
    """A key of `SITUATIONS`, or another test's name."""
    outcome: str
    """`passed`, `failed` or `skipped`."""
    reason: str = ""
    """Why it was skipped."""
    properties: tuple[tuple[str, str], ...] = ()


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page."""
    clients = [each for each in outcomes if each.situation in SITUATIONS]
    origins = [each for each in outcomes if each.situation == "test_an_origin_is_pulled_from"]
    conformance = [each for each in outcomes if each.situation == "test_a_node_conforms_as_its_origin_does"]
    return "\n".join(
        [
            "# Compatibility",
            "",
            "Written by `make compatibility` from the tests in `tests/compatibility`, which run the real programs.",
            "",
            "## Clients",
            "",
            *_client_table(clients),
            "",
            *(f"- **{title}**: {meaning}." for title, meaning in SITUATIONS.values()),
            "",
            *_skips(clients),
            "## Origins",
            "",
            "Pulled from by skopeo through a node with the node's own login.",
            "",
            "| origin | pulled from |",
            "| --- | --- |",
            *(f"| {each.subject} | {_WORDS[each.outcome]} |" for each in origins),
            "",
            "## Conformance",
            "",
            "The suite of the OCI distribution specification, without its deletions. What it pushes goes to the",
            "origin; what it reads comes from a node before that. Nothing may fail through the node that the origin",
            f"itself does not fail. Version of the suite: {TOOLS['conformance'].version}.",
            "",
            "| origin | version | passed, failed at the origin | passed, failed through a node | as required |",
            "| --- | --- | --- | --- | --- |",
            *(_conformance_row(each) for each in conformance),
            "",
        ]
    )


def client_names(text: str) -> list[str]:
    """The clients that a page has rows for."""
    rows = text.partition("## Clients")[2].partition("## Origins")[0].splitlines()
    return [row.split("|")[1].strip() for row in rows if row.startswith("| ")][2:]


def titles(text: str) -> list[str]:
    """The situations that a page has columns for."""
    header = next(line for line in text.splitlines() if line.startswith("| client |"))
    return [cell.strip() for cell in header.split("|")[3:-1]]


def _client_table(outcomes: Sequence[Outcome]) -> Iterable[str]:
    yield f"| client | version | {' | '.join(title for title, _ in SITUATIONS.values())} |"
    yield "| --- | --- |" + " --- |" * len(SITUATIONS)
    for name in dict.fromkeys(each.subject for each in outcomes):
        own = {each.situation: each for each in outcomes if each.subject == name}
        version = next((value for each in own.values() for key, value in each.properties if key == "version"), "")
        cells = [_WORDS[own[key].outcome] if key in own else "" for key in SITUATIONS]
        yield f"| {name} | {version} | {' | '.join(cells)} |"


def _skips(outcomes: Sequence[Outcome]) -> Iterable[str]:
    """Why cells are empty."""
    reasons: dict[str, list[str]] = {}
    for each in outcomes:
        if each.outcome == "skipped":
            reasons.setdefault(f"{SITUATIONS[each.situation][0]}: {each.reason}", []).append(each.subject)
    for reason, names in reasons.items():
        yield f"n/a, {reason} ({', '.join(names)})."
        yield ""


def _conformance_row(outcome: Outcome) -> str:
    said = dict(outcome.properties)
    counts = (f"{said.get(f'{place} passed', '')}, {said.get(f'{place} failed', '')}" for place in ("origin", "node"))
    return f"| {outcome.subject} | {said.get('version', '')} | {' | '.join(counts)} | {_WORDS[outcome.outcome]} |"
