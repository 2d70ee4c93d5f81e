"""Orders to a daemon that runs: what it answers at its operations port."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from peer.settings import PeerSettings
from shoal.cli.exits import NoDaemon, Unusable
from shoal.cli.options import Invocation
from shoal.daemonsettings import OperationsSettings
from shoal.fields import authority, check_url, from_here, is_loopback
from shoal.operator import OperatorToken, TokenUnusable
from shoal.reference import InvalidReference, Reference

_SILENCE_SECONDS = 10.0
"""For which a daemon may say nothing; then it is asked whether it lives, since some orders take it longer."""
_RETURN_SECONDS = 60.0
"""For which a daemon that is started anew is waited for by who follows what it tells."""
_EVENT_SECONDS = 30.0
"""For which it may say nothing while it is followed: it says each 10 s that it is alive."""
_TLS_SECONDS = 300.0
"""The same of one with TLS, which has shown that it lives when it shook hands."""
_ALIVE_PATH = "/healthz"
_MAX_ANSWER_SIZE = 64 << 20


class _Answer(dict[str, Any]):
    """An object of an answer. What it lacks raises `click.ClickException`: a daemon of another version gave it."""

    def __missing__(self, key: str) -> Any:
        raise click.ClickException(
            f"the daemon's answer has no {key!r}: it is of another version than this command; restart the daemon"
        )


@dataclass(frozen=True, slots=True)
class Operated:
    """A daemon by its operations port: where that is reached, and where the operator's token is."""

    host: str
    port: int
    token_file: Path
    tls: ssl.SSLContext | None = None
    """What its certificate is held against; None: it speaks HTTP."""

    def ask(self, method: str, path: str, order: Mapping[str, object] | None = None) -> dict[str, Any]:
        """What it answers; raises `NoDaemon`, `Unusable` where the order is none, and `click.ClickException` where it
        is refused.

        Who may not read the operator's token sees on the daemon's own machine what everybody may see.
        """
        headers, without_token = self._headers()
        body = json.dumps(order).encode() if order is not None else b""
        try:
            status, answer = self._answer(method, path, body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._absent(error) from None
        if status == HTTPStatus.UNAUTHORIZED and without_token:
            raise click.ClickException(without_token)
        if status != HTTPStatus.OK:
            refused = Unusable if status == HTTPStatus.BAD_REQUEST else click.ClickException
            raise refused(str(answer.get("error", f"status {status}")))
        return answer

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """What it tells as it happens (server-sent events), until it ends the answer or is gone for a moment.

        Raises as `ask` does, `NoDaemon` where it does not return.
        """
        headers, _ = self._headers()
        connection = self._connection()
        try:
            patience_ends = time.monotonic() + _RETURN_SECONDS
            while True:
                try:
                    connection.connect()
                    break
                except OSError as error:
                    if time.monotonic() > patience_ends:
                        raise self._absent(error) from None
                    time.sleep(1)
            connection.request("GET", path, headers=headers)
            self._await_answer(connection.sock)
            connection.sock.settimeout(_EVENT_SECONDS)
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                answer = json.loads(response.read(_MAX_ANSWER_SIZE), object_hook=_Answer)
                raise click.ClickException(str(answer.get("error", f"status {response.status}")))
            for line in response:
                name, _, data = line.decode().partition(": ")
                if name == "data":
                    yield json.loads(data, object_hook=_Answer)
        except (OSError, http.client.HTTPException, ValueError):  # it is asked again
            time.sleep(1)
        finally:
            connection.close()

    def _headers(self) -> tuple[dict[str, str], str]:
        """The headers of a request, and why there is no token among them."""
        headers = {"Content-Type": "application/json"}
        try:
            return headers | {"Authorization": f"Bearer {OperatorToken(self.token_file).read()}"}, ""
        except TokenUnusable as error:
            return headers, f"{error}: run it as the daemon's user, with the daemon's configuration"

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=_SILENCE_SECONDS)
        return http.client.HTTPSConnection(self.host, self.port, timeout=_SILENCE_SECONDS, context=self.tls)

    def _absent(self, error: Exception) -> NoDaemon:
        hint = "Start it, or give this command the --operations or the --config that it runs with."
        why = error if isinstance(error, OSError) else "what listens there does not answer as Shoal does"
        return NoDaemon(f"no daemon answers at {authority(self.host, self.port)}: {why}\n{hint}")

    def _hung(self) -> NoDaemon:
        hint = (
            "Look at its log (`journalctl -u 'shoal-*'`), and whether the machine has processor and memory left; then "
            "restart it."
        )
        return NoDaemon(
            f"the daemon at {authority(self.host, self.port)} takes connections and does not answer\n{hint}"
        )

    def _answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Raises `OSError`, `HTTPException`, and `ValueError` where the answer is no JSON object."""
        connection = self._connection()
        try:
            connection.connect()
            connection.request(method, path, body, dict(headers))
            self._await_answer(connection.sock)
            response = connection.getresponse()
            answer = json.loads(response.read(_MAX_ANSWER_SIZE), object_hook=_Answer)
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise ValueError("no object")
        return response.status, answer

    def _await_answer(self, sock: socket.socket) -> None:
        """Until an answer begins; raises `NoDaemon` where the daemon does not even say that it lives."""
        if self.tls is not None:  # of which bytes may come that are no answer
            sock.settimeout(_TLS_SECONDS)
            return
        while not select.select([sock], [], [], _SILENCE_SECONDS)[0]:
            with contextlib.closing(self._connection()) as connection:
                try:
                    connection.request("GET", _ALIVE_PATH)
                    connection.getresponse()
                except TimeoutError:
                    raise self._hung() from None


def this_node(invocation: Invocation) -> Operated:
    """The node's daemon, as the configuration has it."""
    peer = invocation.configuration({"log": {"level": "warning"}}).peer
    return Operated(from_here(peer.operations.host), peer.operations.port, peer.token_file, trust(peer.operations))


def the_supernode(invocation: Invocation) -> Operated:
    """The supernode, as the configuration has it: on another machine, where `peer.supernode` is on that."""
    settings = invocation.configuration({"log": {"level": "warning"}})
    operations, host = settings.supernode.operations, from_here(settings.supernode.operations.host)
    if is_loopback(host) and settings.peer.supernode:
        host = check_url("peer.supernode", settings.peer.supernode)
    return Operated(host, operations.port, settings.supernode.token_file, trust(operations))


def trust(operations: OperationsSettings) -> ssl.SSLContext | None:
    """What the certificate of an operations port is held against, where it has one; raises `click.ClickException`.

    It has to be the very one of the configuration, whatever the name or address by which the port is reached.
    """
    if not operations.uses_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(Path(operations.cert_file).expanduser())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the certificate {operations.cert_file!r} cannot be read: {error}") from None
    return context


def ask(invocation: Invocation, method: str, path: str, order: Mapping[str, object] | None = None) -> dict[str, Any]:
    """What this node's daemon answers, as `Operated.ask`."""
    return this_node(invocation).ask(method, path, order)


def operations_address(settings: PeerSettings) -> str:
    """Where the daemon of this machine answers, `host:port`."""
    return authority(from_here(settings.operations.host), settings.operations.port)


def about(image: str) -> dict[str, object]:
    """An order about one image; raises `click.BadParameter`."""
    try:
        Reference.parse(image)
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    return {"image": image}
