"""Traces of real pulls: from a client's request on one node to the pieces that another one gives."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from shoal.digest import Digest
from tests.world.client import get
from tests.world.collector import Collected, Collector
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

CONTENT = random_bytes(12 << 20, "traces")
LAYER = Digest.of(CONTENT)
FIRST, SECOND = 32 * "a", 32 * "b"
CLIENT = 16 * "c"
MOST_PIECES = 32


def traceparent(trace: str) -> str:
    return f"00-{trace}-{CLIENT}-01"


def chain(collector: Collector, span: Collected) -> list[str]:
    """The names from a span up to the request of a client."""
    by_id = {each.span: each for each in collector.spans}
    names = []
    while span.parent in by_id:
        names.append(span.name)
        span = by_id[span.parent]
    assert span.parent == CLIENT, f"{names} end at {span.name}, which is nobody's request"
    return [*names, span.name]


def test_one_trace_leads_from_a_clients_request_to_the_pieces(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack
) -> None:
    digest = origin.push(CONTENT)
    origin.tags[REPOSITORY, "latest"] = digest
    url, collector = origin.start(stack), Collector()
    supernode.start(stack)
    wanted = collector.start(stack) | {"SHOAL_TRACES__ENABLED": "true"}
    one, two = (
        Node(tmp_path / name, {UPSTREAM: url}, supernode.port, wanted | {"OTEL_SERVICE_NAME": name})
        for name in ("one", "two")
    )
    for node in (one, two):
        node.start(stack)

    manifest = f"/v2/{REPOSITORY}/manifests/latest"
    assert get(one, manifest, traceparent=traceparent(FIRST)).status == 200
    assert get(one, blob_path(LAYER), traceparent=traceparent(FIRST)).brings(CONTENT)
    wait_until(lambda: len(collector.named("GET blob")) == 1, "the request is recorded")
    wait_until(lambda: len(collector.named("blob.fetch")) == 2, "and what it began")
    wait_until(lambda: one.counted("shoal_store_blobs") == 2, "all of it is stored")

    assert {each.trace for each in collector.spans} == {FIRST}
    request = "GET blob"
    fetches = [span for span in collector.named("origin.fetch") if chain(collector, span)[-1] == request]
    assert [chain(collector, span) for span in fetches] == [["origin.fetch", "blob.fetch", "blob.open", request]]
    asked = [chain(collector, span) for span in collector.named("GET")]
    assert ["GET", "origin.fetch", "blob.fetch", "blob.open", request] in asked
    (resolved,) = [span for span in collector.named("tag.resolve") if span.attributes["shoal.reference"] == "latest"]
    assert chain(collector, resolved) == ["tag.resolve", "GET manifest"]
    assert resolved.attributes["shoal.digest"] == digest
    (question,) = [each for each in collector.named("supernode.resolve") if each.parent == resolved.span]
    assert question.attributes["shoal.answer"] == "ask"
    assert ["HEAD", "tag.resolve", "GET manifest"] in [chain(collector, span) for span in collector.named("HEAD")]
    joins = [chain(collector, span) for span in collector.named("swarm.join")]
    assert ["swarm.join", "blob.fetch", "blob.open", request] in joins
    (answered,) = collector.named(request)
    assert (answered.service, answered.attributes["shoal.from.origin"]) == ("one", len(CONTENT))

    assert get(two, blob_path(LAYER), traceparent=traceparent(SECOND)).brings(CONTENT)
    wait_until(lambda: len(collector.named("blob.fetch")) == 3, "the second pull is recorded")
    requests = collector.named("piece.request")
    assert len(requests) == MOST_PIECES, "of 48 pieces not all are spans"
    wait_until(lambda: len(collector.named("piece.serve")) > 0, "by who serves, too")
    assert {(each.trace, each.service) for each in requests} == {(SECOND, "two")}
    assert {(each.trace, each.service) for each in collector.named("piece.serve")} == {(SECOND, "one")}
    served = {tuple(chain(collector, span)) for span in collector.named("piece.serve")}
    assert served == {("piece.serve", "piece.request", "blob.fetch", "blob.open", request)}
    (second,) = [each for each in collector.named(request) if each.trace == SECOND]
    assert second.attributes["shoal.from.peer"] == len(CONTENT)


def test_a_collector_that_is_away_holds_nobody_up(origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack) -> None:
    origin.push(CONTENT)
    nowhere = {"SHOAL_TRACES__ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    node = Node(tmp_path / "node", {UPSTREAM: origin.start(stack)}, settings=nowhere)
    node.start(stack)
    assert get(node, blob_path(LAYER)).brings(CONTENT)
