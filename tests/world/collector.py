"""A collector of traces (OTLP over HTTP) that keeps what it gets."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collected(NamedTuple):
    """One span."""

    service: str
    """The name of the service that recorded it."""
    name: str
    trace: str
    span: str
    parent: str
    """Empty where it begins a trace."""
    attributes: dict[str, str | int | bool]


class Collector:
    """Keeps spans in the order in which they come."""

    def __init__(self) -> None:
        self.spans: list[Collected] = []

    def start(self, stack: ExitStack) -> dict[str, str]:
        """Listen until `stack` ends; returns the environment of who is to send here at once."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(server.server_close)
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def named(self, name: str) -> list[Collected]:
        """All spans of this name."""
        return [each for each in self.spans if each.name == name]

    def _take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            known = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    values = {each.key: each.value for each in span.attributes}
                    said = {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}
                    self.spans.append(Collected(known["service.name"], span.name, *ids, said))
