"""Admission rules: the decision as a table, the file that they come from, and what clients see."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import proxy.admission
from proxy.admission import Admission, RulesUnusable, enforce
from proxy.catalogue import Catalogue
from proxy.errors import AdmissionDenied
from proxy.metrics import ProxyMetrics
from proxy.rules import AdmissionSettings, RuleBook, Rules, RuleSettings, Verdict
from proxy.server import ProxyServer
from proxy.settings import ProxySettings, UpstreamSettings
from shoal.audit import Audit
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Tag

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryEngine, MemoryOrigin

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
    enforce(said, Location.parse("quay.io", "a"), None)


@pytest.mark.parametrize(
    ("reference", "shown"),
    [(Tag("v1"), "quay.io/a:v1"), (DIGEST, f"quay.io/a@{DIGEST}"), (None, "quay.io/a")],
)
def test_a_denial_names_the_rule(reference: Tag | Digest | None, shown: str) -> None:
    with pytest.raises(AdmissionDenied, match="the rule 'no-a' of this mirror denies ") as caught:
        enforce(Verdict("no-a", denied=True, dry_run=False), Location.parse("quay.io", "a"), reference)
    assert str(caught.value).endswith(shown)


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


# --- the file ---------------------------------------------------------------------------------------------------------

DENY_ALL = '[[rules]]\nname = "all"\nverdict = "deny"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "admission.toml"
    path.write_text(DENY_ALL)
    return path


def admission(file: Path) -> Admission:
    return Admission(AdmissionSettings(file=str(file)), ProxyMetrics(CollectorRegistry()))


def word(found: Admission) -> str:
    return found.check(Location.parse("quay.io", "a"), None).word


def test_a_changed_file_is_read_again(file: Path) -> None:
    found = admission(file)
    assert word(found) == "deny"
    file.write_text(f"dry_run = true\n{DENY_ALL}")
    found.refresh()
    assert word(found) == "would_deny"
    file.with_suffix(".new").write_text("")
    file.with_suffix(".new").replace(file)
    found.refresh()
    assert word(found) == "allow"


@pytest.mark.parametrize(
    "content", ["rules = 1", "[[rules]]\nname = 'a'", f"[a{'.a' * 5000}]\nb = 1", "not toml", "\xff", None]
)
def test_a_broken_file_leaves_the_rules_and_is_told_of_once(file: Path, content: str | None) -> None:
    found = admission(file)
    file.unlink()
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with capture_logs() as logs:
        found.refresh()
        found.refresh()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("admission.rules_unusable", "error")]
    assert str(file) in logs[0]["error"]
    assert word(found) == "deny"
    file.write_text("")
    found.refresh()
    assert word(found) == "allow"


def test_a_broken_file_stops_the_start(file: Path) -> None:
    file.write_text("rules = 1")
    with pytest.raises(RulesUnusable, match=r"admission\.toml.*rules"):
        admission(file)
    with pytest.raises(RulesUnusable, match="cannot be read"):
        admission(file.with_name("nowhere"))


async def test_the_file_is_looked_after(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.admission, "POLL_SECONDS", 0.01)
    async with admission(file) as found:
        file.write_text("# all is allowed\n")
        async with asyncio.timeout(5):
            while word(found) != "allow":  # noqa: ASYNC110
                await asyncio.sleep(0.01)


# --- what clients see -------------------------------------------------------------------------------------------------

BLOB = b"of any repository" * 100


class Mirror:
    """A proxy with these rules, which keeps an audit log."""

    def __init__(self, server: ProxyServer, registry: CollectorRegistry, audit: Audit, log: Path) -> None:
        self._server = server
        self._audit = audit
        self._registry = registry
        self._log = log

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session:
            own = f"http://127.0.0.1:{self._server.port}"
            url, proxy = (own + path, None) if path.startswith("/") else (path, own)
            async with session.request(method, url, headers=headers, proxy=proxy) as response:
                return response.status, await response.read()

    def counted(self, rule: str, verdict: str) -> float:
        labels = {"rule": rule, "verdict": verdict}
        return self._registry.get_sample_value("shoal_proxy_admission_total", labels) or 0.0

    async def audited(self) -> list[dict[str, Any]]:
        """The lines so far."""
        await self._audit.flush()
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
async def mirror(tmp_path: Path, engine: MemoryEngine, memory_origin: MemoryOrigin) -> AsyncIterator[Mirror]:
    registry = CollectorRegistry()
    file, log = tmp_path / "rules.toml", tmp_path / "audit.log"
    file.write_text('[[rules]]\nname = "no-bad"\nverdict = "deny"\nimages = ["quay.io/bad*"]\n')
    settings = ProxySettings(
        port=0,
        upstreams={"quay.io": UpstreamSettings()},
        admission=AdmissionSettings(file=str(file)),
    )
    digest = engine.coming(BLOB)
    memory_origin.known[digest] = Descriptor(digest, len(BLOB))
    metrics = ProxyMetrics(registry)
    async with (
        Audit(log) as audit,
        ProxyServer(settings, engine, None, memory_origin, Catalogue(None), metrics, audit=audit) as server,
    ):
        yield Mirror(server, registry, audit, log)


@pytest.mark.parametrize(
    "path",
    ["manifests/latest", f"manifests/{DIGEST}", f"blobs/{Digest.of(BLOB)}", "tags/list", f"referrers/{DIGEST}"],
)
@pytest.mark.parametrize("prefix", ["/v2/bad/thing/{}?ns=quay.io", "/v2/quay.io/bad/thing/{}"])
async def test_everything_of_a_denied_repository_is_denied(mirror: Mirror, prefix: str, path: str) -> None:
    status, body = await mirror.ask(prefix.format(path))
    (error,) = json.loads(body)["errors"]
    assert (status, error["code"]) == (403, "DENIED")
    assert "'no-bad'" in error["message"]
    assert "quay.io/bad/thing" in error["message"]
    assert (await mirror.ask(prefix.format(path), "HEAD"))[0] == 403
    assert mirror.counted("no-bad", "deny") == 2


async def test_each_request_is_a_line_of_the_audit_log(mirror: Mirror) -> None:
    digest = Digest.of(BLOB)
    await mirror.ask(f"/v2/good/thing/blobs/{digest}?ns=quay.io")
    login = f"Basic {base64.b64encode(b'alice:secret').decode()}"
    await mirror.ask("/v2/bad/thing/manifests/v1?ns=quay.io&token=secret", Authorization=login)
    await mirror.ask("/v2/good/thing/manifests/v1", "PUT")
    await mirror.ask("http://other.example/v2/x")
    first, second, third, fourth = await mirror.audited()
    assert first.pop("seconds") >= 0
    assert first.pop("time")
    assert first == {
        "client": "127.0.0.1",
        "method": "GET",
        "route": "blob",
        "registry": "quay.io",
        "repository": "good/thing",
        "reference": digest,
        "status": 200,
        "verdict": "allow",
        "rule": "default",
        "bytes": len(BLOB),
    }
    assert (second["verdict"], second["rule"], second["status"], second["reference"]) == ("deny", "no-bad", 403, "v1")
    assert [line.get("user") for line in (first, second)] == [None, "alice"]
    assert (third["method"], third["path"], third["status"]) == ("PUT", "/v2/good/thing/manifests/v1", 405)
    assert (fourth["host"], fourth["path"], fourth["status"]) == ("other.example", "/v2/x", 403)
    assert "secret" not in str([first, second, third])
    assert login.removeprefix("Basic ") not in str([first, second, third])
