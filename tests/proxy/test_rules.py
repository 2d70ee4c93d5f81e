"""Which images may be pulled: the decision as a table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules import AdmissionSettings, RuleBook, Rules, RuleSettings
from shoal.digest import Digest
from shoal.reference import Location, Tag

DIGEST = Digest.of(b"some")


def rule(name: str, verdict: str, *images: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "images": list(images), "tags": list(tags)}


def rules(*entries: dict[str, Any], **book: Any) -> Rules:
    return Rules(msgspec.convert({"rules": entries, **book}, RuleBook))


def verdict(found: Rules, image: str) -> str:
    """Rule and word for `registry/repository`, with a tag, a digest or nothing behind it."""
    name, at, _ = image.partition("@")
    name, _, tag = name.partition(":")
    registry, _, repository = name.partition("/")
    reference = DIGEST if at else (Tag(tag) if tag else None)
    said = found.check(Location.parse(registry, repository), reference)
    return f"{said.rule} {said.word}"


ORDERED = rules(
    rule("no-latest", "deny", "docker.io/*", tags=("latest", "nightly-*")),
    rule("base", "allow", "docker.io/library/*", "quay.io/team/*"),
    rule("hub", "deny", "docker.io/*"),
    rule("evil", "deny", "*evil*"),
)


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        ("docker.io/busybox:1", "base allow"),
        ("docker.io/library/busybox:latest", "no-latest deny"),
        ("docker.io/library/busybox:nightly-3", "no-latest deny"),
        ("docker.io/library/busybox:LATEST", "base allow"),
        ("docker.io/library/busybox@", "base allow"),
        ("docker.io/library/busybox", "base allow"),
        ("docker.io/somebody/thing:1", "hub deny"),
        ("docker.io/somebody/thing@", "hub deny"),
        ("docker.io/somebody/thing", "hub deny"),
        ("docker.io/a/b/c/d", "hub deny"),
        ("quay.io/team/evil:1", "base allow"),
        ("quay.io/evil:1", "evil deny"),
        ("quay.io/some/evil/thing@", "evil deny"),
        ("quay.io/other:latest", "default allow"),
        ("xdocker.io/a:latest", "default allow"),
    ],
)
def test_the_first_rule_that_matches_decides(image: str, outcome: str) -> None:
    assert verdict(ORDERED, image) == outcome


SINGLE_TAGS = rules(
    rule("releases", "allow", "quay.io/team/app", tags=("v[0-9]*",)),
    rule("no-other-tags", "deny", "quay.io/team/app", tags=("*",)),
    rule("contents", "allow", "quay.io/team/app"),
    default="deny",
)


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        ("quay.io/team/app:v1.2", "releases allow"),
        ("quay.io/team/app:latest", "no-other-tags deny"),
        ("quay.io/team/app@", "contents allow"),
        ("quay.io/team/app", "contents allow"),
        ("quay.io/team/apple:v1.2", "default deny"),
    ],
)
def test_single_tags_of_a_repository(image: str, outcome: str) -> None:
    assert verdict(SINGLE_TAGS, image) == outcome


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("index.docker.io/busybox", "docker.io/library/busybox"),
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("Docker.IO/library/*", "docker.io/library/busybox"),
        ("registry-1.docker.io/*", "docker.io/a/b"),
        ("quay.io:443/*", "quay.io/a"),
        ("*.example/*", "a.b.example/c"),
        ("registry.example:5000/a", "registry.example:5000/a"),
        ("[[]fd00::1]:5000/*", "[fd00::1]:5000/a"),
    ],
)
def test_patterns_are_read_as_names_are(pattern: str, image: str) -> None:
    registry, _, repository = image.partition("/")
    found = rules(rule("it", "deny", pattern)).check(Location.parse(registry, repository), None)
    assert found.rule == "it"


def test_in_dry_run_what_is_denied_is_only_said() -> None:
    said = rules(rule("all", "deny", "*"), dry_run=True).check(Location.parse("quay.io", "a"), None)
    assert (said.word, said.rule) == ("would_deny", "all")


@pytest.mark.parametrize(
    ("book", "message"),
    [
        ({"rules": [rule("a", "deny", "*"), rule("a", "allow", "*")]}, "'a' twice"),
        ({"rules": [rule("default", "deny", "*")]}, "'default' twice"),
        ({"rules": [rule("a b", "deny", "*")]}, "name"),
        ({"rules": [rule("a", "block", "*")]}, "verdict"),
        ({"rules": [rule("a", "deny", "quay.io")]}, "'quay.io' matches nothing"),
        ({"rules": [rule("a", "deny")]}, "`images` is empty"),
        ({"rules": [rule("a", "deny", "quay.io/" + "[" * 100_000)]}, "a pattern of 100008 characters"),
        ({"rules": [{"name": "a", "verdict": "deny", "tag": ["x"]}]}, "tag"),
        ({"default": "maybe"}, "default"),
    ],
)
def test_rules_that_are_refused(book: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(book, RuleBook)


def test_rules_stand_in_one_place() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        AdmissionSettings(file="x", rules=[RuleSettings(name="a", verdict="deny")])


# --- properties -------------------------------------------------------------------------------------------------------

_IMAGES = st.sampled_from(["*", "docker.io/*", "docker.io/library/a", "quay.io/*", "quay.io/a?", "*/a"])
_TAGS = st.lists(st.sampled_from(["*", "latest", "v*", "[ab]"]), max_size=2)
_RULES = st.lists(
    st.tuples(st.sampled_from(["allow", "deny"]), st.lists(_IMAGES, min_size=1, max_size=2), _TAGS), max_size=6
)
_LOCATIONS = st.sampled_from([Location.parse(r, n) for r in ("docker.io", "quay.io") for n in ("a", "ab", "a/a")])
_REFERENCES = st.sampled_from([Tag("latest"), Tag("v1"), Tag("a"), DIGEST, None])


def book(entries: list[Any], default: Any) -> RuleBook:
    made = [
        RuleSettings(name=str(number), verdict=verdict, images=images, tags=tags)
        for number, (verdict, images, tags) in enumerate(entries)
    ]
    return RuleBook(rules=made, default=default)


@given(_RULES, st.sampled_from(["allow", "deny"]), _LOCATIONS, _REFERENCES)
def test_what_decided_would_decide_alone(entries: list[Any], default: Any, location: Location, reference: Any) -> None:
    whole = book(entries, default)
    said = Rules(whole).check(location, reference)
    if said.rule == "default":
        assert said.denied == (default == "deny")
        for each in whole.rules:
            assert Rules(RuleBook(rules=[each])).check(location, reference).rule == "default"
    else:
        place = int(said.rule)
        assert Rules(RuleBook(rules=[whole.rules[place]])).check(location, reference).denied == said.denied
        before = RuleBook(rules=whole.rules[:place])
        assert Rules(before).check(location, reference).rule == "default"


@given(_RULES, st.sampled_from(["allow", "deny"]), _LOCATIONS)
def test_tags_never_decide_about_digests(entries: list[Any], default: Any, location: Location) -> None:
    untagged = [entry for entry in entries if not entry[2]]
    for reference in (DIGEST, None):
        said = Rules(book(entries, default)).check(location, reference)
        assert said.denied == Rules(book(untagged, default)).check(location, reference).denied
