"""What the audit log says of a request to the mirror."""

from __future__ import annotations

from aiohttp import hdrs

from proxy.admission import asked_for
from proxy.identity import claimed_name
from proxy.responses import Call
from shoal.audit import Field


def audited(call: Call, status: int, seconds: float) -> dict[str, Field]:
    """What is said of a request to the mirror. Of a query nothing: it may hold what a client signs in with."""
    asked = asked_for(call.target) if call.target is not None else None
    location, reference = asked if asked is not None else (None, None)
    return {
        "client": call.request.remote,
        "user": claimed_name(call.request.headers.getall(hdrs.AUTHORIZATION, [])),
        "method": call.request.method,
        "route": call.route,
        "host": _host(call),
        "registry": location.registry if location is not None else None,
        "repository": location.repository if location is not None else None,
        "reference": reference,
        "path": call.request.path if location is None else None,
        "status": status,
        "verdict": call.verdict.word if call.verdict is not None else None,
        "rule": call.verdict.rule if call.verdict is not None else None,
        "bytes": call.sent,
        "seconds": round(seconds, 4),
    }


def _host(call: Call) -> str | None:
    """The host of a request of forward-proxy mode, reached or not."""
    if call.inside is not None:
        return str(call.inside.authority)
    return call.request.host if not call.request.raw_path.startswith("/") else None
