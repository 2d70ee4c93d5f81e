"""Traces by OpenTelemetry. Where they go, and how many are kept, its own environment variables say (`OTEL_...`)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Self

import aiohttp
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shoal.traces import NO_SPAN, NONE, Attributes, Span, Traces
from shoal.version import VERSION

_SERVICE = "shoal"
_UNNAMED = "unknown_service"
"""How OpenTelemetry calls a service of which the environment says no name."""
_TRACE_SIZE, _SPAN_SIZE = 16, 8
_CARRIED_SIZE = _TRACE_SIZE + _SPAN_SIZE + 1
_CLOSE_SECONDS = 2.0
_API = "/v2/"
"""Paths below it are shown; those of other hosts may hold signatures."""
_PROPAGATOR = TraceContextTextMapPropagator()


class RecordedSpan(Span):
    """A part of a pull that is recorded."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def inner(self) -> trace.Span:
        """OpenTelemetry's own."""
        return self._span

    @property
    def is_recorded(self) -> bool:
        return self._span.is_recording()

    @property
    def carried(self) -> bytes:
        known = self._span.get_span_context()
        ids = known.trace_id.to_bytes(_TRACE_SIZE, "big") + known.span_id.to_bytes(_SPAN_SIZE, "big")
        return ids + bytes([known.trace_flags])

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes = NONE) -> None:
        self._span.add_event(name, attributes)

    def link(self, other: Span) -> None:
        if isinstance(other, RecordedSpan):
            self._span.add_link(other.inner.get_span_context())

    def failed(self, reason: str) -> None:
        self._span.set_status(StatusCode.ERROR, reason)

    def end(self) -> None:
        self._span.end()


class RecordedTraces(Traces):
    """The traces of a daemon that makes some."""

    def __init__(self, provider: TracerProvider, *, upstreams: bool) -> None:
        """`upstreams`: whether these are told which trace a request belongs to."""
        self._provider = provider
        self._tracer = provider.get_tracer(_SERVICE, VERSION)
        self._upstreams = upstreams

    @classmethod
    def exporting(cls, *, upstreams: bool) -> Self:
        """To a collector by OTLP over HTTP, as the environment says; without a word of it, to this machine's."""
        resource = Resource.create({SERVICE_VERSION: VERSION})
        if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, upstreams=upstreams)

    @property
    def is_on(self) -> bool:
        return True

    @contextlib.contextmanager
    def serving(self, headers: Mapping[str, str]) -> Iterator[Span]:
        parent = _PROPAGATOR.extract({name.lower(): value for name, value in headers.items()}, context.Context())
        with self._inside(self._started("request", NONE, parent, SpanKind.SERVER)) as span:
            yield span

    @contextlib.contextmanager
    def part(self, name: str, attributes: Attributes = NONE, parent: Span | None = None) -> Iterator[Span]:
        with self._inside(self.begin(name, attributes, parent)) as span:
            yield span

    def begin(self, name: str, attributes: Attributes = NONE, parent: Span | None = None) -> Span:
        return self._begun(name, attributes, parent, SpanKind.INTERNAL)

    def joined(self, carried: bytes, name: str, attributes: Attributes = NONE) -> Span:
        if len(carried) != _CARRIED_SIZE:
            return NO_SPAN
        ids = (int.from_bytes(carried[:_TRACE_SIZE], "big"), int.from_bytes(carried[_TRACE_SIZE:-1], "big"))
        known = SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(carried[-1]))
        if not known.is_valid:
            return NO_SPAN
        parent = trace.set_span_in_context(trace.NonRecordingSpan(known), context.Context())
        return self._started(name, attributes, parent, SpanKind.SERVER)

    def of_requests(self) -> Sequence[aiohttp.TraceConfig]:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._requested)
        config.on_request_end.append(_answered)
        config.on_request_exception.append(_broken)
        return (config,)

    def close(self) -> None:
        # it tries for as long as an export may take, and nobody is to wait for a collector that is away
        sending = threading.Thread(target=self._provider.shutdown, name="shoal-traces", daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)

    def _begun(self, name: str, attributes: Attributes, parent: Span | None, kind: SpanKind) -> Span:
        if parent is None:
            above = trace.get_current_span()
        elif isinstance(parent, RecordedSpan):
            above = parent.inner
        else:
            return NO_SPAN
        if not above.is_recording():
            return NO_SPAN
        return self._started(name, attributes, trace.set_span_in_context(above), kind)

    def _started(self, name: str, attributes: Attributes, parent: context.Context, kind: SpanKind) -> Span:
        span = self._tracer.start_span(name, parent, kind, attributes)
        return RecordedSpan(span) if span.is_recording() else NO_SPAN

    @contextlib.contextmanager
    def _inside(self, span: Span) -> Iterator[Span]:
        if not isinstance(span, RecordedSpan):
            yield span
            return
        token = context.attach(trace.set_span_in_context(span.inner))
        try:
            yield span
        except asyncio.CancelledError:
            span.event("cancelled")
            raise
        except BaseException as error:
            span.failed(str(error) or type(error).__name__)
            raise
        finally:
            context.detach(token)
            span.end()

    async def _requested(
        self, _: aiohttp.ClientSession, asked: SimpleNamespace, params: aiohttp.TraceRequestStartParams
    ) -> None:
        url = params.url
        attributes: dict[str, str | int] = {"http.request.method": params.method, "server.address": url.host or ""}
        if url.path.startswith(_API):
            attributes["url.path"] = url.path
        asked.span = self._begun(params.method, attributes, None, SpanKind.CLIENT)
        if self._upstreams and isinstance(asked.span, RecordedSpan):
            _PROPAGATOR.inject(params.headers, trace.set_span_in_context(asked.span.inner))


async def _answered(_: aiohttp.ClientSession, asked: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
    asked.span.set({"http.response.status_code": params.response.status})
    asked.span.end()


async def _broken(
    _: aiohttp.ClientSession, asked: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
) -> None:
    asked.span.failed(type(params.exception).__name__)
    asked.span.end()
