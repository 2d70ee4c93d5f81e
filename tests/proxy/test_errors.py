from __future__ import annotations

import json

import pytest

from peer.errors import DigestMismatch, DownloadFailed, Stopping
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from proxy.errors import InvalidName, PushRefused, UnknownUpstream, UnsatisfiableRange, answer_to


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidName("x"), 400, "NAME_INVALID"),
        (UnknownUpstream("x"), 404, "NAME_UNKNOWN"),
        (PushRefused("x"), 405, "UNSUPPORTED"),
        (UnsatisfiableRange(5), 416, "RANGE_INVALID"),
        (OriginNotFound("x"), 404, "BLOB_UNKNOWN"),
        (OriginDenied("x"), 403, "DENIED"),
        (OriginDenied("x", ("Basic",)), 401, "UNAUTHORIZED"),
        (OriginNotFound("x", "NAME_UNKNOWN"), 404, "NAME_UNKNOWN"),
        (OriginUnavailable("x"), 502, "UNAVAILABLE"),
        (DownloadFailed("x"), 502, "UNAVAILABLE"),
        (DigestMismatch("x"), 502, "UNAVAILABLE"),
        (Stopping("x"), 503, "UNAVAILABLE"),
        (ZeroDivisionError("secret"), 500, "UNKNOWN"),
    ],
)
def test_each_error_has_one_answer(error: Exception, status: int, code: str) -> None:
    answer = answer_to(error, "BLOB_UNKNOWN", {"path": "/p"})
    (entry,) = json.loads(answer.body)["errors"]
    assert (answer.status, entry["code"], entry["detail"]) == (status, code, {"path": "/p"})
    assert entry["message"]
    assert "secret" not in entry["message"]


def test_headers_that_belong_to_a_status() -> None:
    assert answer_to(PushRefused("x"), "", {}).headers == [("Allow", "GET, HEAD")]
    assert answer_to(UnsatisfiableRange(5), "", {}).headers == [("Content-Range", "bytes */5")]
    denied = answer_to(OriginDenied("x", ('Bearer realm="r"', "Basic")), "", {})
    assert denied.headers == [("WWW-Authenticate", 'Bearer realm="r"'), ("WWW-Authenticate", "Basic")]
