"""Real clients that have a node as HTTPS_PROXY pull from a registry with TLS through it, and push past it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.daemons import Daemon, free_ports
from bench.origin import PROGRAM, distribution_config, logged_traffic
from tests.world.certificates import Authority
from tests.world.images import Layout, debian_layers, made_layer
from tests.world.nodes import Node, Supernode
from tests.world.programs import ProgramFailed, require, require_root, run
from tests.world.registries import Registry

NAME = "registry.made.test"
"""What images' references call the registry; nothing resolves it."""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
MIB = 1 << 20


@dataclass(frozen=True)
class SecureRegistry:
    """Distribution's registry behind TLS, on loopback."""

    port: int
    log: Path
    authority: Path

    @property
    def upstream(self) -> dict[str, str]:
        """As a node is told of it."""
        return {"url": f"https://127.0.0.1:{self.port}", "ca_file": str(self.authority)}

    def sent(self) -> int:
        """Bytes of bodies that left it so far."""
        return logged_traffic(self.log)[1]

    def digest(self, image: str) -> str:
        """What a tag stands for there, asked without a proxy."""
        url = f"docker://127.0.0.1:{self.port}/{image}"
        said = run("skopeo", "--insecure-policy", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", url)
        return said.strip()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRegistry]:
    require(PROGRAM, "skopeo")
    folder = tmp_path_factory.mktemp("secure")
    with ExitStack() as stack:
        (port,) = free_ports(1)
        authority = Authority(folder / "authority")
        own = authority.issue("127.0.0.1")
        config = distribution_config(folder / "data", f"127.0.0.1:{port}")
        config["http"] = {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(own.certificate_file), "key": str(own.key_file)},
        }
        (folder / "config.json").write_text(json.dumps(config))
        daemon = stack.enter_context(Daemon([PROGRAM, "serve", str(folder / "config.json")], folder / "log"))
        daemon.wait_for(port)
        yield SecureRegistry(port, folder / "log", authority.file)


@pytest.fixture(scope="module")
def image(secure: SecureRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real image, pushed as `library/debian:real`; its digest."""
    layout = Layout(tmp_path_factory.mktemp("image") / "layout")
    return layout.push(layout.image(debian_layers()), secure.port, "library/debian:real")


@dataclass
class ForwardingNode(Node):
    """A node in forward-proxy mode."""

    @property
    def trusted(self) -> Path:
        """The certificate of its authority."""
        return self.folder / "ca/ca.crt"

    @property
    def of_clients(self) -> dict[str, str]:
        """Environment of clients that use it."""
        return {
            "HTTPS_PROXY": self.url,
            "HTTP_PROXY": self.url,
            "NO_PROXY": "",
            "SSL_CERT_FILE": str(self.trusted),
            "HOME": str(self.folder),
        }


def forwarding(
    folder: Path, upstream: dict[str, str], stack: ExitStack, supernode: int = 0, **tunnel: str
) -> ForwardingNode:
    """A node that stands for the registry at `upstream`; `tunnel`: settings of `proxy.tunnel`."""
    settings = {"ENABLED": "true", "CA": str(folder / "ca"), **{key.upper(): text for key, text in tunnel.items()}}
    node = ForwardingNode(
        folder,
        {NAME: upstream["url"]},
        supernode,
        {
            "SHOAL_PROXY__UPSTREAMS": json.dumps({NAME: upstream}),
            **{f"SHOAL_PROXY__TUNNEL__{key}": text for key, text in settings.items()},
        },
    )
    node.start(stack)
    return node


@pytest.fixture
def proxy(tmp_path: Path, secure: SecureRegistry, stack: ExitStack) -> ForwardingNode:
    return forwarding(tmp_path / "node", secure.upstream, stack)


class Docker:
    """A dockerd of its own that has a node as its proxy."""

    def __init__(self, node: ForwardingNode, stack: ExitStack) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="docker-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        self._address = f"unix://{folder}/docker.sock"
        (folder / "daemon.json").write_text("{}")
        command = ["dockerd", f"--config-file={folder}/daemon.json", f"--data-root={folder}/root"]
        command += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host={self._address}"]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]
        environment = {**node.of_clients, "TMPDIR": str(folder)}
        daemon = stack.enter_context(Daemon(command, folder / "log", environment))
        daemon.wait_until(self._answers)

    def run(self, *command: str) -> str:
        return run("docker", "--host", self._address, *command, environment={"HOME": os.devnull})

    def pull(self, image: str) -> str:
        """Pull; returns the digest that docker then knows."""
        self.run("pull", "--quiet", image)
        (name,) = json.loads(self.run("image", "inspect", image))[0]["RepoDigests"]
        return str(name).partition("@")[2]

    def _answers(self) -> bool:
        try:
            self.run("version")
        except ProgramFailed:
            return False
        return True


def skopeo(node: ForwardingNode, *command: str) -> str:
    return run("skopeo", "--insecure-policy", *command, environment=node.of_clients)


def test_docker_pulls_and_pushes(proxy: ForwardingNode, secure: SecureRegistry, image: str, stack: ExitStack) -> None:
    require("dockerd", "docker")
    require_root()
    docker, before = Docker(proxy, stack), secure.sent()
    assert docker.pull(f"{NAME}/library/debian:real") == image
    assert 0 < secure.sent() - before <= proxy.received("origin") * 1.01 + 20_000
    docker.run("tag", f"{NAME}/library/debian:real", f"{NAME}/again/debian:copy")
    docker.run("push", "--quiet", f"{NAME}/again/debian:copy")
    docker.run("image", "prune", "--all", "--force")
    assert docker.pull(f"{NAME}/again/debian:copy") == secure.digest("again/debian:copy")


def test_docker_is_told_why_it_is_refused(tmp_path: Path, secure: SecureRegistry, stack: ExitStack) -> None:
    require("dockerd", "docker")
    require_root()
    docker = Docker(forwarding(tmp_path / "node", secure.upstream, stack, others="refuse"), stack)
    with pytest.raises(ProgramFailed, match=r"other\.test:443 is neither an upstream of this mirror"):
        docker.pull("other.test/a/b:latest")


def test_containerd_pulls(proxy: ForwardingNode, image: str, stack: ExitStack) -> None:
    require("containerd", "ctr")
    require_root()
    # the path of a Unix socket is at most 107 bytes long
    temporary = tempfile.TemporaryDirectory(prefix="containerd-", ignore_cleanup_errors=True)
    folder = Path(stack.enter_context(temporary))
    socket = folder / "containerd.sock"
    (folder / "config.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
    )
    daemon = Daemon(["containerd", "--config", f"{folder}/config.toml"], folder / "log", proxy.of_clients)
    stack.enter_context(daemon).wait_until(socket.exists)
    ctr = ("ctr", "--address", socket, "images")
    pull = ("pull", "--snapshotter", "native", f"{NAME}/library/debian:real")
    run(*ctr, *pull, environment=proxy.of_clients)
    assert image in run(*ctr, "list")
    assert image in proxy.stored()


def test_podman_pulls(proxy: ForwardingNode, image: str, stack: ExitStack) -> None:
    require("podman")
    require_root()
    # it takes no long paths
    temporary = tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True)
    folder = Path(stack.enter_context(temporary))
    (folder / "policy.json").write_text(POLICY)
    root = ("--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs")
    environment = {**proxy.of_clients, "TMPDIR": str(folder)}
    pull = ("pull", "--quiet", "--signature-policy", folder / "policy.json", f"{NAME}/library/debian:real")
    run("podman", *root, *pull, environment=environment)
    assert run("podman", *root, "images", "--format", "{{.Digest}}", environment=environment).strip() == image
    assert image in proxy.stored()


def made(folder: Path, *names: str) -> str:
    """An image of these layers as an OCI layout in `folder`; its digest."""
    layout = Layout(folder)
    descriptor = layout.image([made_layer(name, MIB) for name in names])
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return str(descriptor["digest"])


def test_skopeo_pulls_what_it_has_pushed(proxy: ForwardingNode, secure: SecureRegistry, tmp_path: Path) -> None:
    target = f"docker://{NAME}/made/pushed:latest"
    first, second = made(tmp_path / "first", "one", "two"), made(tmp_path / "second", "one", "three")
    for number, digest in enumerate((first, second)):
        source = tmp_path / ("first", "second")[number]
        skopeo(proxy, "copy", "--preserve-digests", f"oci:{source}", target)
        assert secure.digest("made/pushed:latest") == digest
        skopeo(proxy, "copy", target, f"oci:{tmp_path}/back{number}:it")
        assert digest in proxy.stored()


def test_the_registry_judges_who_signs_in(tmp_path: Path, stack: ExitStack) -> None:
    require(PROGRAM, "skopeo")
    registry = Registry(tmp_path / "private", htpasswd=True).start(stack)
    node = forwarding(tmp_path / "node", {"url": registry.url}, stack)
    target = f"docker://{NAME}/private/thing:latest"
    digest = made(tmp_path / "made", "one")
    with pytest.raises(ProgramFailed, match=r"unauthorized|authentication required"):
        skopeo(node, "copy", f"oci:{tmp_path}/made", target)
    skopeo(node, "copy", "--preserve-digests", "--dest-creds", "alice:alice-secret", f"oci:{tmp_path}/made", target)
    skopeo(node, "copy", "--src-creds", "alice:alice-secret", target, f"oci:{tmp_path}/hers:it")
    assert digest in node.stored()
    skopeo(node, "copy", "--src-creds", "bob:bob-secret", target, f"oci:{tmp_path}/his:it")
    for login in ((), ("--src-creds", "bob:wrong")):
        with pytest.raises(ProgramFailed, match=r"unauthorized|authentication required"):
            skopeo(node, "copy", *login, target, f"oci:{tmp_path}/nobodys:it")


def test_two_nodes_share_what_their_clients_pull(
    tmp_path: Path, secure: SecureRegistry, image: str, supernode: Supernode, stack: ExitStack
) -> None:
    supernode.start(stack)
    nodes = [forwarding(tmp_path / name, secure.upstream, stack, supernode.port) for name in ("one", "two")]
    for number, node in enumerate(nodes):
        skopeo(node, "copy", f"docker://{NAME}/library/debian:real", f"oci:{tmp_path}/out{number}:it")
    assert nodes[1].received("origin") < 100_000
    assert nodes[1].received("peer") > 10 * MIB
    assert nodes[0].stored() == nodes[1].stored()


def test_curl_reaches_an_unnamed_host_untouched(tmp_path: Path, secure: SecureRegistry, stack: ExitStack) -> None:
    require("curl")
    (port,) = free_ports(1)
    authority = Authority(tmp_path / "other")
    own = authority.issue("127.0.0.1")
    command = ["openssl", "s_server", "-accept", str(port), "-cert", str(own.certificate_file), "-key"]
    stack.enter_context(Daemon([*command, str(own.key_file), "-www"], tmp_path / "openssl.log")).wait_for(port)
    node = forwarding(
        tmp_path / "node", secure.upstream, stack, hosts=json.dumps([f"127.0.0.1:{port}"]), others="refuse"
    )
    options = ("--silent", "--show-error", "--proxy", node.url, "--noproxy", "", "--cacert", authority.file)
    assert "s_server" in run("curl", *options, f"https://127.0.0.1:{port}/")
    with pytest.raises(ProgramFailed, match="403"):
        run("curl", *options, "https://other.test/")
