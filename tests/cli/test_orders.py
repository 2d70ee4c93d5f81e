"""Orders to a daemon that answers late, or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shoal.cli.exits import ExitCode, NoDaemon
from shoal.cli.orders import Operated
from tests.cli.conftest import Shoal

SILENCE = 0.1
HANGS = "takes connections and does not answer"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.cli.orders._SILENCE_SECONDS", SILENCE)


def daemon(port: int) -> Operated:
    return Operated("127.0.0.1", port, Path("/nowhere"))


def test_a_daemon_that_hangs_is_told_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hung = daemon(server.getsockname()[1])
        with pytest.raises(NoDaemon, match=HANGS) as caught:
            hung.ask("POST", "/v1/gc", {})
        assert "journalctl" in caught.value.message
        with pytest.raises(NoDaemon, match=HANGS):
            list(hung.events("/v1/preheats/1/events"))


class Thorough(BaseHTTPRequestHandler):
    """Takes long for an order, and says meanwhile that it lives."""

    def do_GET(self) -> None:
        self._answer(b'{"status": "alive"}')

    def do_POST(self) -> None:
        time.sleep(5 * SILENCE)
        self._answer(b'{"bytes": 1}')

    def log_message(self, format: str, *args: object) -> None: ...

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def thorough() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Thorough) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_daemon_of_another_version_is_told(shoal: Shoal) -> None:
    with thorough() as port:
        ended = shoal("status", "--operations", f":{port}")
    assert ended.code == ExitCode.FAILED
    assert "another version than this command; restart the daemon" in ended.err


def test_what_is_no_daemon_of_shoal_is_told(shoal: Shoal) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        ended = shoal("status", "--operations", f":{server.server_port}")
        thread.join()
    assert ended.code == ExitCode.NO_DAEMON
    assert "what listens there does not answer as Shoal does" in ended.err


def test_a_daemon_that_takes_long_and_lives_is_waited_for() -> None:
    with thorough() as port:
        assert daemon(port).ask("POST", "/v1/gc", {}) == {"bytes": 1}
