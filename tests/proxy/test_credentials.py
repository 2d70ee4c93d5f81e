"""The node's own credentials from real files and from helpers that are real programs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.credentials import AGAIN_SECONDS, KEPT_SECONDS, NodeCredentials
from proxy.identity import Identity, node_identity, node_token_identity
from proxy.settings import CredentialsUnreadable, EndpointSettings
from shoal.reference import parse_registry

USER = node_identity("user", "pass")
AUTH = base64.b64encode(b"user:pass").decode()


def _runs(group: int) -> bool:
    """Whether a process of this group is there that is no zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            return True
    return False


class Folder:
    """A `config.json`, helpers on the PATH, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.json"
        self.now = 0.0

    def write(self, config: object) -> None:
        self.file.write_text(config if isinstance(config, str) else json.dumps(config))

    def helper(self, name: str, script: str) -> None:
        program = self.folder / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def wait_for_the_end(self) -> None:
        """Until the helper that wrote `pid`, and whatever it has started, runs no more."""
        group, until = int((self.folder / "pid").read_text()), time.monotonic() + 5
        while _runs(group):
            assert time.monotonic() < until

    def credentials(self, registry: str = "registry.example:5000") -> NodeCredentials:
        settings = EndpointSettings(docker_config=str(self.file))
        return NodeCredentials(parse_registry(registry), settings, lambda: self.now)

    async def read(self, config: object, registry: str = "registry.example:5000") -> Identity | None:
        self.write(config)
        return await self.credentials(registry).get()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    yield Folder(tmp_path)


# --- the configuration's own --------------------------------------------------------------------------------------


async def test_a_name_with_a_password_or_a_file_of_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" pass\n")
    for settings in (
        EndpointSettings(username="user", password="pass"),
        EndpointSettings(username="user", password_file=str(file)),
    ):
        assert await NodeCredentials(parse_registry("a.example"), settings, lambda: 0.0).get() == USER
    assert await NodeCredentials(parse_registry("a.example"), EndpointSettings(), lambda: 0.0).get() is None


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_password_file_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CredentialsUnreadable, match="password_file"):
        NodeCredentials(
            parse_registry("a.example"), EndpointSettings(username="u", password_file=str(file)), lambda: 0.0
        )


# --- config.json --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("registry.example:5000", "registry.example:5000"),
        ("registry.example:5000", "https://registry.example:5000"),
        ("registry.example:5000", "http://registry.example:5000/v1/"),
        ("registry.example:5000", "REGISTRY.example:5000/team"),
        ("registry.example", "registry.example:443"),
        ("docker.io", "https://index.docker.io/v1/"),
        ("docker.io", "index.docker.io"),
        ("docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("[::1]:5000", "https://[::1]:5000/v2/"),
    ],
)
async def test_keys_of_every_form_name_a_registry(folder: Folder, registry: str, key: str) -> None:
    assert await folder.read({"auths": {"other.example": {"auth": "eDp5"}, key: {"auth": AUTH}}}, registry) == USER


@pytest.mark.parametrize(
    "key", ["registry.example", "example:5000", "xregistry.example:5000", "https://", "", "a b", "//registry.example:1"]
)
async def test_keys_of_other_registries_do_not(folder: Folder, key: str) -> None:
    assert await folder.read({"auths": {key: {"auth": AUTH}}}) is None


async def test_the_plain_name_goes_before_a_part_of_the_registry(folder: Folder) -> None:
    part = {"auth": base64.b64encode(b"part:x").decode()}
    config = {"auths": {"registry.example:5000/team": part, "registry.example:5000": {"auth": AUTH}}}
    assert await folder.read(config) == USER


@pytest.mark.parametrize(
    ("entry", "identity"),
    [
        ({"auth": AUTH}, USER),
        ({"auth": base64.b64encode(b"user:pass\0\0").decode()}, USER),
        ({"auth": base64.b64encode(b"user:a:b").decode()}, node_identity("user", "a:b")),
        ({"username": "user", "password": "pass"}, USER),
        ({"auth": AUTH, "identitytoken": "tok"}, node_token_identity("tok")),
        ({"auth": "", "email": "a@b.example"}, None),
        ({}, None),
    ],
)
async def test_entries_of_auths(folder: Folder, entry: object, identity: Identity | None) -> None:
    assert await folder.read({"auths": {"registry.example:5000": entry}, "HttpHeaders": {"x": "y"}}) == identity


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "null",
        '{"auths": []}',
        '{"auths": {"registry.example:5000": {"auth": 3}}}',
        '{"auths": {"registry.example:5000": {"auth": "%%%"}}}',
        '{"auths": {"registry.example:5000": {"auth": "dXNlcg=="}}}',
        '{"auths": {"registry.example:5000": {"auth": "//79/A=="}}}',
        '{"credHelpers": {"registry.example:5000": "../../bin/sh"}}',
        '{"credHelpers": {"registry.example:5000": ""}}',
        '{"credHelpers": {"registry.example:5000": "not-installed"}}',
        "[" * 100_000,
        '{"auths": {"registry.example:5000": {"auth": "' + "A" * (5 << 20) + '"}}}',
    ],
    ids=range(14),
)
async def test_a_file_that_makes_no_sense_is_told_and_no_credentials(folder: Folder, config: str) -> None:
    with capture_logs() as logs:
        assert await folder.read(config) is None
    assert [entry["event"] for entry in logs] == ["credentials.unreadable"]
    assert len(logs[0]["error"]) < 500


async def test_a_folder_in_place_of_the_file_is_told(folder: Folder) -> None:
    folder.file.mkdir()
    with capture_logs() as logs:
        assert await folder.credentials().get() is None
    assert "config.json" in logs[0]["error"]


# --- helpers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "registry", "asked"),
    [
        ({"credHelpers": {"registry.example:5000": "test"}}, "registry.example:5000", "registry.example:5000"),
        ({"credHelpers": {"https://gcr.io": "test"}}, "gcr.io", "https://gcr.io"),
        ({"credsStore": "test"}, "registry.example:5000", "registry.example:5000"),
        ({"credsStore": "test", "auths": {"docker.io": {"auth": "eDp5"}}}, "docker.io", "https://index.docker.io/v1/"),
        ({"credsStore": "other", "credHelpers": {"gcr.io": "test"}}, "gcr.io", "gcr.io"),
    ],
)
async def test_a_helper_is_asked_by_its_protocol(folder: Folder, config: object, registry: str, asked: str) -> None:
    folder.helper("test", f'echo "$1 $(cat)" > {folder.folder}/asked; echo \'{{"Username":"user","Secret":"pass"}}\'')
    assert await folder.read(config, registry) == USER
    assert (folder.folder / "asked").read_text().strip() == f"get {asked}"


@pytest.mark.parametrize(
    ("script", "identity"),
    [
        ("""echo '{"ServerURL":"x","Username":"<token>","Secret":"tok"}'""", node_token_identity("tok")),
        ("""echo '{"Username":"user","Secret":""}'""", None),
        ("""echo 'credentials not found in native keychain'; exit 1""", None),
    ],
)
async def test_answers_of_a_helper(folder: Folder, script: str, identity: Identity | None) -> None:
    folder.helper("test", script)
    with capture_logs() as logs:
        assert await folder.read({"credsStore": "test"}) == identity
    assert logs == []


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'no keychain here'; exit 3", "failed with status 3: no keychain here"),
        ("kill -9 $$", "failed"),
        ("echo nonsense", "docker-credential-test: "),
        ("exec cat /dev/zero", "more than"),
        ("exec >&-; sleep 60", "no answer within"),
        ("sleep 60", "no answer within"),
        ("exec <&-; sleep 0.1; echo '{'", "docker-credential-test: "),
    ],
)
async def test_a_helper_that_fails_is_told_and_leaves_nothing_behind(
    folder: Folder, script: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.credentials._HELPER_SECONDS", 0.4)
    folder.helper("test", f"echo $$ > {folder.folder}/pid\n{script}")
    with capture_logs() as logs:
        assert await folder.read({"credsStore": "test"}) is None
    (line,) = logs
    assert told in line["error"]
    folder.wait_for_the_end()


async def test_nobody_waits_for_long_for_a_slow_helper_and_its_answer_is_used(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.credentials._FIRST_WAIT_SECONDS", 0.05)
    os.mkfifo(folder.folder / "gate")
    folder.helper("test", f"""cat {folder.folder}/gate; echo '{{"Username":"user","Secret":"pass"}}'""")
    folder.write({"credsStore": "test"})
    credentials = folder.credentials()
    async with asyncio.timeout(2):
        assert await credentials.get() is None
    await asyncio.to_thread((folder.folder / "gate").write_text, "")
    assert await credentials.get() == USER


async def test_closing_ends_a_helper(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.credentials._FIRST_WAIT_SECONDS", 0.2)
    folder.helper("test", f"echo $$ > {folder.folder}/pid; sleep 60")
    folder.write({"credsStore": "test"})
    credentials = folder.credentials()
    assert await credentials.get() is None
    await credentials.close()
    folder.wait_for_the_end()


async def test_many_who_ask_at_once_are_one_question(folder: Folder) -> None:
    folder.helper("test", f"""echo x >> {folder.folder}/asked; echo '{{"Username":"user","Secret":"pass"}}'""")
    folder.write({"credsStore": "test"})
    credentials = folder.credentials()
    assert set(await asyncio.gather(*(credentials.get() for _ in range(20)))) == {USER}
    assert (folder.folder / "asked").read_text() == "x\n"


# --- again --------------------------------------------------------------------------------------------------------


def login(user: str) -> object:
    return {"auths": {"registry.example:5000": {"username": user, "password": "pass"}}}


async def test_credentials_are_read_again_after_a_time(folder: Folder) -> None:
    folder.write(login("user"))
    credentials = folder.credentials()
    await credentials.get()
    folder.write(login("new"))
    folder.now = KEPT_SECONDS - 1
    assert await credentials.get() == USER
    folder.now = KEPT_SECONDS
    assert await credentials.get() == node_identity("new", "pass")


async def test_a_refused_login_is_read_again_and_not_with_each_refusal(folder: Folder) -> None:
    folder.write(login("user"))
    credentials = folder.credentials()
    await credentials.get()
    folder.write(login("new"))
    credentials.refused()
    assert await credentials.get() == USER
    folder.now = AGAIN_SECONDS
    assert await credentials.get() == node_identity("new", "pass")


async def test_a_file_out_of_order_leaves_the_last_known_credentials_for_the_while(folder: Folder) -> None:
    folder.write(login("user"))
    credentials = folder.credentials()
    await credentials.get()
    folder.now += KEPT_SECONDS
    folder.write('{"auths": {"registry.exam')
    assert await credentials.get() == USER
    folder.write(login("new"))
    folder.now += AGAIN_SECONDS
    assert await credentials.get() == node_identity("new", "pass")


async def test_a_file_that_is_removed_takes_its_credentials_along(folder: Folder) -> None:
    folder.write(login("user"))
    credentials = folder.credentials()
    await credentials.get()
    folder.file.unlink()
    folder.now += KEPT_SECONDS
    assert await credentials.get() is None
