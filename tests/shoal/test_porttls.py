"""An operations port with a certificate: who reaches it, and what becomes of who does not speak TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import click
import pytest
import uvloop
from prometheus_client import CollectorRegistry

import shoal.operations
from shoal.cli.orders import Operated, trust
from shoal.daemonsettings import OperationsSettings
from shoal.operations import OperationsServer
from shoal.porttls import CertificateUnusable
from tests.world.certificates import Authority, Certificate


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def settings(tmp_path: Path, authority: Authority) -> OperationsSettings:
    found = OperationsSettings(cert_file=str(tmp_path / "port.crt"), key_file=str(tmp_path / "port.key"))
    place(authority.issue("lead.example"), found)
    return found


def place(certificate: Certificate, settings: OperationsSettings) -> None:
    """Have the port use a certificate."""
    shutil.copy(certificate.certificate_file, settings.cert_file)
    shutil.copy(certificate.key_file, settings.key_file)


@pytest.fixture
async def server(settings: OperationsSettings) -> AsyncIterator[OperationsServer]:
    async with OperationsServer(settings, CollectorRegistry(), {}) as server:
        yield server


async def status(port: int, tls: ssl.SSLContext, name: str = "lead.example") -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.get(f"https://127.0.0.1:{port}/healthz", server_hostname=name) as answer,
    ):
        return answer.status


async def asked(settings: OperationsSettings, port: int) -> dict[str, object]:
    """What a command is answered that has these settings."""
    daemon = Operated("127.0.0.1", port, Path("none"), trust(settings))
    return await asyncio.to_thread(daemon.ask, "GET", "/readyz")


async def test_who_trusts_the_authority_reaches_it_by_its_name(server: OperationsServer, authority: Authority) -> None:
    assert await status(server.port, ssl.create_default_context(cafile=str(authority.file))) == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await status(server.port, ssl.create_default_context(cafile=str(authority.file)), "other.example")


async def test_commands_take_the_certificate_of_the_configuration_and_no_other(
    server: OperationsServer, settings: OperationsSettings, authority: Authority
) -> None:
    assert await asked(settings, server.port) == {"status": "ready", "not_ready": []}
    other = OperationsSettings(cert_file=str(authority.issue("other.example").certificate_file))
    with pytest.raises(click.ClickException, match="CERTIFICATE_VERIFY_FAILED"):
        await asked(other, server.port)
    with pytest.raises(click.ClickException, match="no daemon answers"):
        await asked(OperationsSettings(), server.port)


async def test_a_certificate_that_was_renewed_counts_at_once_and_a_broken_one_does_not(
    server: OperationsServer, settings: OperationsSettings, tmp_path: Path
) -> None:
    renewed = Authority(tmp_path / "renewed")
    place(renewed.issue("lead.example"), settings)
    trusting = ssl.create_default_context(cafile=str(renewed.file))
    assert await status(server.port, trusting) == 200
    Path(settings.key_file).write_text("nothing")
    assert await status(server.port, trusting) == 200


async def test_who_does_not_speak_tls_is_dropped_and_makes_room(
    server: OperationsServer, settings: OperationsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"HTTP" not in await reader.read()
    writer.close()
    monkeypatch.setattr("shoal.porttls._HANDSHAKE_SECONDS", 0.3)
    crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(shoal.operations._CONNECTIONS)]
    async with asyncio.timeout(10):
        for silent, _ in crowd:
            with pytest.raises(ConnectionResetError):
                assert await silent.read() == b""
                raise ConnectionResetError
    for _, writer in crowd:
        writer.close()
    assert await asked(settings, server.port)


def test_who_says_hello_at_once_is_heard_by_the_event_loop_of_daemons(settings: OperationsSettings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def shake(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as plain, context.wrap_socket(plain) as secured:
            assert secured.version() == "TLSv1.3"

    async def serve() -> None:
        async with OperationsServer(settings, CollectorRegistry(), {}) as server:
            for _ in range(20):
                await asyncio.to_thread(shake, server.port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def test_who_has_gone_makes_room(server: OperationsServer, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=str(authority.file))
    for _ in range(shoal.operations._CONNECTIONS + 1):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting, server_hostname="lead.example"
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(5):
            assert b" 200 " in await reader.readline()
            await reader.read()
        writer.close()


def test_a_certificate_wants_its_key(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cert_file"):
        OperationsSettings(key_file="x")
    made, other = authority.issue("one.example"), authority.issue("other.example")
    for key in ("", str(other.key_file), str(tmp_path / "none")):
        with pytest.raises(CertificateUnusable):
            OperationsServer(
                OperationsSettings(cert_file=str(made.certificate_file), key_file=key), CollectorRegistry(), {}
            )
