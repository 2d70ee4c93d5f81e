"""Clusters whose members know each other: real daemons with a secret, and with certificates that change under them."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from peer import wire
from peer.budget import raise_descriptor_limit
from shoal.digest import Digest
from tests.world.certificates import Authority
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.origin import ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

SECRET = "the secret of this cluster"
CONTENT = random_bytes(3 << 20, "members")


def settings_of(folder: Path, authority: Authority) -> dict[str, str]:
    """A node's own certificate files, as its configuration names them."""
    made = authority.issue("127.0.0.1")
    folder.mkdir(exist_ok=True)
    files = {"CERT_FILE": made.certificate_file, "KEY_FILE": made.key_file, "CA_FILE": authority.file}
    for key, file in files.items():
        (folder / key).write_bytes(file.read_bytes())
    return {f"SHOAL_CLUSTER__{key}": str(folder / key) for key in files}


def test_members_share_blobs_in_a_crowd_of_strangers_who_get_and_learn_nothing(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    members = {"SHOAL_CLUSTER__SECRET_FILE": str(file)}
    origin.push(CONTENT)
    digest, url = Digest.of(CONTENT), origin.start(stack)
    supernode = Supernode(tmp_path / "supernode", members)
    supernode.start(stack)
    one, two = (Node(tmp_path / name, {UPSTREAM: url}, supernode.port, members, 1024) for name in ("one", "two"))
    one.start(stack)
    assert get(one, blob_path(digest)).brings(CONTENT)
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    raise_descriptor_limit()
    for port in 1060 * (one.peer_port, supernode.port):
        crowd = stack.enter_context(socket.socket())
        crowd.setblocking(False)
        crowd.connect_ex(("127.0.0.1", port))
    two.start(stack)
    assert get(two, blob_path(digest)).brings(CONTENT)
    assert two.received("peer") == len(CONTENT)

    hello, request = wire.Hello(wire.VERSION, 32 * "0"), wire.Request(digest, len(CONTENT), 0)
    with socket.create_connection(("127.0.0.1", one.peer_port), timeout=10) as stranger:
        stranger.sendall(wire.frame(hello) + wire.frame(request))
        try:
            assert stranger.recv(1) == b""
        except ConnectionResetError:
            pass
    outsider = Node(tmp_path / "outsider", {UPSTREAM: url}, 0, {"SHOAL_CLUSTER__SECRET": "a wrong, wrong secret"})
    outsider.settings["SHOAL_PEER__SUPERNODE"] = f"http://127.0.0.1:{supernode.port}"
    outsider.start(stack)
    assert get(outsider, blob_path(digest)).brings(CONTENT)
    wait_until(lambda: "not_of_this_cluster" in outsider.log, "the outsider is refused")
    assert outsider.received("peer") == 0
    assert "cluster's secret" in (supernode.folder / "log").read_text()
    assert not any(SECRET in node.log for node in (one, two, outsider))


def test_certificates_of_another_authority_count_without_a_restart(
    origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    origin.push(CONTENT)
    digest, url = Digest.of(CONTENT), origin.start(stack)
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    supernode = Supernode(tmp_path / "supernode", settings_of(tmp_path / "supernode-files", first))
    supernode.start(stack)
    secure = {"SHOAL_PEER__SUPERNODE": f"https://127.0.0.1:{supernode.port}"}
    one, two = (Node(tmp_path / name, {UPSTREAM: url}, 0, secure.copy()) for name in ("one", "two"))
    one.settings |= settings_of(tmp_path / "one-files", first)
    one.start(stack)
    assert get(one, blob_path(digest)).brings(CONTENT)
    for name in ("supernode", "one"):
        settings_of(tmp_path / f"{name}-files", second)
    logs = [supernode.folder / "log", one.folder / "log"]
    wait_until(lambda: all("cluster.files_read" in log.read_text() for log in logs), "the certificates are read again")
    two.settings |= settings_of(tmp_path / "two-files", second)
    two.start(stack)
    wait_until(lambda: two.counted("shoal_supernode_connected") == 1, "the node reaches its supernode")
    assert get(two, blob_path(digest)).brings(CONTENT)
    assert two.received("peer") == len(CONTENT)
    assert one.counted("shoal_supernode_connected") == 1
