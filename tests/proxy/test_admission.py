"""Admission rules: the file that they come from, and what clients see."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import proxy.admission
from proxy.admission import Admission, RulesUnusable, enforce
from proxy.catalogue import Catalogue
from proxy.errors import AdmissionDenied
from proxy.metrics import ProxyMetrics
from proxy.rules import AdmissionSettings, Verdict
from proxy.server import ProxyServer
from proxy.settings import ProxySettings, UpstreamSettings
from shoal.audit import Audit
from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Tag

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryEngine, MemoryOrigin

DIGEST = Digest.of(b"some")


@pytest.mark.parametrize(
    ("reference", "shown"),
    [(Tag("v1"), "quay.io/a:v1"), (DIGEST, f"quay.io/a@{DIGEST}"), (None, "quay.io/a")],
)
def test_a_denial_names_the_rule(reference: Tag | Digest | None, shown: str) -> None:
    with pytest.raises(AdmissionDenied, match="the rule 'no-a' of this mirror denies ") as caught:
        enforce(Verdict("no-a", denied=True, dry_run=False), Location.parse("quay.io", "a"), reference)
    assert str(caught.value).endswith(shown)


def test_in_dry_run_nothing_is_refused() -> None:
    enforce(Verdict("no-a", denied=True, dry_run=True), Location.parse("quay.io", "a"), None)


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
