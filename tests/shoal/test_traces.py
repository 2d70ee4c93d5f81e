"""Traces by OpenTelemetry, and that nothing is done for them where nobody wants any."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shoal.daemonsettings import TracesSettings
from shoal.spans import RecordedTraces
from shoal.traces import NO_SPAN, NO_TRACES, TracesUnavailable, traces_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FROM_CLIENT = {"Traceparent": f"00-{TRACE}-{PARENT}-01"}


class Recorded:
    """Traces whose spans are kept."""

    def __init__(self, *, upstreams: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = RecordedTraces(provider, upstreams=upstreams)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.all}


def parent_of(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def test_a_request_belongs_to_its_clients_trace() -> None:
    recorded = Recorded()
    with recorded.traces.serving(FROM_CLIENT) as span:
        span.rename("GET blob")
        with recorded.traces.part("blob.open"):
            pass
    spans = recorded.spans
    assert {trace_of(each) for each in spans.values()} == {TRACE}
    assert parent_of(spans["GET blob"]) == PARENT
    assert parent_of(spans["blob.open"]) == id_of(spans["GET blob"])


@pytest.mark.parametrize("sent", ["00-0-0-01", "x" * 10_000, f"00-{'0' * 32}-{PARENT}-01", ""])
def test_what_is_no_traceparent_begins_a_trace_of_its_own(sent: str) -> None:
    recorded = Recorded()
    with recorded.traces.serving({"traceparent": sent}):
        pass
    assert parent_of(recorded.spans["request"]) == ""


def test_what_its_client_does_not_sample_is_not_recorded() -> None:
    recorded = Recorded()
    with recorded.traces.serving({"traceparent": f"00-{TRACE}-{PARENT}-00"}) as span:
        assert span is NO_SPAN
        with recorded.traces.part("blob.open") as part:
            assert part is NO_SPAN
    assert not recorded.spans


def test_what_no_client_waits_for_is_not_recorded() -> None:
    recorded = Recorded()
    with recorded.traces.part("tag.resolve") as part, recorded.traces.part("blob", parent=NO_SPAN) as other:
        assert part is NO_SPAN
        assert other is NO_SPAN
    assert recorded.traces.begin("blob.fetch") is NO_SPAN
    assert not recorded.spans


def test_an_error_marks_what_it_went_through() -> None:
    recorded = Recorded()
    with pytest.raises(ValueError, match="no such"), recorded.traces.serving({}), recorded.traces.part("tag.resolve"):
        raise ValueError("no such tag")
    assert recorded.spans["tag.resolve"].status.description == "no such tag"
    assert not recorded.spans["tag.resolve"].status.is_ok


def test_another_node_joins_by_what_is_carried_there() -> None:
    recorded, other = Recorded(), Recorded()
    with recorded.traces.serving(FROM_CLIENT) as span:
        other.traces.joined(span.carried, "piece.serve").end()
    served = other.spans["piece.serve"]
    assert trace_of(served) == TRACE
    assert parent_of(served) == id_of(recorded.spans["request"])


@pytest.mark.parametrize("carried", [b"", b"\x01" * 24, b"\x01" * 26, bytes(25), bytes(16) + b"\x01" * 9])
def test_what_a_stranger_carries_is_joined_only_where_it_can_be(carried: bytes) -> None:
    assert Recorded().traces.joined(carried, "piece.serve") is NO_SPAN


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[TestServer, list[str]]]:
    """A server, and the `traceparent` of each request that it got."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent", ""))
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    yield server, seen
    await server.close()


@pytest.mark.parametrize("told", [False, True])
async def test_upstreams_are_told_of_a_trace_only_where_that_is_wanted(
    upstream: tuple[TestServer, list[str]], told: bool
) -> None:
    server, seen = upstream
    recorded = Recorded(upstreams=told)
    async with aiohttp.ClientSession(trace_configs=list(recorded.traces.of_requests())) as session:
        with recorded.traces.serving(FROM_CLIENT):
            for path in ("/v2/library/made/manifests/latest", "/signed?key=secret"):
                async with session.get(server.make_url(path)):
                    pass
    spans = [span for span in recorded.all if span.name == "GET"]
    said = [dict(span.attributes or {}) for span in spans]
    assert [trace_of(span) for span in spans] == [TRACE, TRACE]
    assert [each.get("url.path") for each in said] == ["/v2/library/made/manifests/latest", None]
    assert [each["http.response.status_code"] for each in said] == [404, 404]
    assert seen == ([f"00-{TRACE}-{id_of(span)}-01" for span in spans] if told else ["", ""])


def test_traces_that_nobody_wants_import_nothing() -> None:
    program = """
import asyncio, pathlib, sys
from peer.settings import PeerSettings
from proxy.settings import ProxySettings
from shoal.cli.node import Node
from shoal.cluster import ClusterSettings
from shoal.daemonsettings import TracesSettings
from shoal.operations import process_metrics
from shoal.traces import traces_of

async def main():
    peer = PeerSettings(store=pathlib.Path("nowhere"))
    Node(peer, ProxySettings(), ClusterSettings(), process_metrics(), traces=traces_of(TracesSettings()))

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith("opentelemetry") or name == "shoal.spans"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert traces_of(TracesSettings()) is NO_TRACES


def test_traces_that_cannot_be_made_say_how_to_mend_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "shoal.spans")
    with pytest.raises(TracesUnavailable, match=r"pip install 'shoal\[traces\]'"):
        traces_of(TracesSettings(enabled=True))
