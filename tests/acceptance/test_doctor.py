"""`shoal doctor` in front of real faults: each is planted, and has to be found by name with what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench.daemons import MEMBERS, Daemon, free_ports
from bench.images import write_image
from bench.netns import Host, Network
from tests.world.certificates import Authority
from tests.world.client import get
from tests.world.clients import Containerd, Mirror, docker_config
from tests.world.examined import Examined, Examiner
from tests.world.front import Fault, Front
from tests.world.nodes import Node, Supernode, wait_until
from tests.world.programs import require, require_root
from tests.world.registries import Registry
from tests.world.tokens import TokenServer

HUB = "docker.io"
REPOSITORY = "library/doctor"
MIB = 1 << 20
CERTS = "/etc/containerd/certs.d"
CRI = '[plugins."io.containerd.grpc.v1.cri".registry'
IMAGES = '[plugins."io.containerd.cri.v1.images".registry]\n'


def host_files(root: Path, files: dict[str, str]) -> Path:
    """A host's file system that holds these files, and containerd with who asks it."""
    programs = {"/usr/bin/containerd": "", "/usr/bin/crictl": ""}
    for path, text in (programs | files).items():
        place = Path(f"{root}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def configured(root: Path, node: Node, runtime: str = "containerd") -> Path:
    """A host whose runtime was told of the node by `shoal config`."""
    command = [sys.executable, "-m", "shoal.cli", "config", runtime, "--write", "--root", str(host_files(root, {}))]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **node.environment})
    return root


def upstream(url: str, **settings: str) -> dict[str, str]:
    """The setting of Docker Hub's place and of what else belongs to it."""
    return {"SHOAL_PROXY__UPSTREAMS": json.dumps({HUB: {"url": url, **settings}})}


@dataclass
class Cluster:
    """Two nodes on loopback, their supernode and their origin, all well."""

    origin: Registry
    supernode: Supernode
    nodes: list[Node]

    def node(self, folder: Path, **settings: str) -> Node:
        """One more node, not started."""
        return Node(folder, {HUB: self.origin.url}, self.supernode.port, settings=MEMBERS | settings)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require("docker-registry")
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        origin = Registry(folder / "origin")
        write_image(origin.root, REPOSITORY, [2 * MIB, 3 * MIB])
        origin.start(stack)
        supernode = Supernode(folder / "supernode", MEMBERS)
        supernode.start(stack)
        cluster = Cluster(origin, supernode, [])
        for place in range(2):
            cluster.nodes.append(cluster.node(folder / f"node{place}"))
            cluster.nodes[-1].start(stack)
        yield cluster


@pytest.fixture
def root(tmp_path: Path, cluster: Cluster) -> Path:
    """A host that is configured well for the cluster's first node."""
    return configured(tmp_path / "root", cluster.nodes[0])


def examined(node: Node, root: Path, *arguments: str, **environment: str) -> Examined:
    return Examiner(root, node.environment, node.host).run(*arguments, **environment)


def expect(found: Examined, code: str, *words: str, level: str = "error") -> None:
    """A fault of that name is found, and its remedy has these words."""
    fault = found.fault(code)
    assert fault.level == level, fault
    assert found.code == (1 if "error" in found.faults.values() else 0)
    for word in words:
        assert word in fault.remedy, fault


# --- what is well ---------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_well_has_no_faults(cluster: Cluster, root: Path, stack: ExitStack) -> None:
    Containerd.require()
    client = Containerd(stack)
    for node in cluster.nodes:
        client.configure(Mirror(node.url, cluster.origin.url))
        client.pull(f"{REPOSITORY}:latest")
        client.forget()
    found = examined(cluster.nodes[0], root, "--image", f"{HUB}/{REPOSITORY}:latest")
    assert (found.code, found.faults) == (0, {})
    well = {finding.code for finding in found.findings}
    assert {
        "daemon-up",
        "mirror-serves",
        "containerd-configured",
        "supernode-connected",
        "inbound-open",
        "origin-reached",
        "clock-right",
        "store-good",
        "descriptors-enough",
        "mirror-asked",
        "swarm-used",
        "last-pull",
        "image-given",
    } <= well


# --- runtimes -------------------------------------------------------------------------------------------------------


def hosts_of(node: Node) -> dict[str, str]:
    return {f"{CERTS}/{HUB}/hosts.toml": f'[host."{node.url}"]\ncapabilities = ["pull", "resolve"]\n'}


CONTAINERD: dict[str, tuple[str, str, str]] = {
    "config_path holds a colon": (
        f'version = 3\n{IMAGES}config_path = "{CERTS}:/etc/docker/certs.d"\n',
        "containerd-config-path-colon",
        "shoal config containerd --write",
    ),
    "registry.mirrors stands beside config_path": (
        f'version = 2\n{CRI}]\nconfig_path = "{CERTS}"\n{CRI}.mirrors."{HUB}"]\nendpoint = ["https://office"]\n',
        "containerd-mirrors-shadow",
        "remove `registry.mirrors`",
    ),
    "the transfer service reads another path": (
        f'version = 3\n{IMAGES}config_path = "{CERTS}"\n'
        '[plugins."io.containerd.transfer.v1.local"]\nconfig_path = "/etc/other"\n',
        "containerd-transfer-path",
        "shoal config containerd --write",
    ),
    "config_path is not set": ("version = 2\n", "containerd-config-path", "shoal config containerd --write"),
    "the file is no TOML": ("version = \n", "containerd-not-editable", "Repair it"),
}


@pytest.mark.parametrize("name", CONTAINERD)
def test_containerd_that_reads_no_mirror(cluster: Cluster, tmp_path: Path, name: str) -> None:
    text, code, remedy = CONTAINERD[name]
    node = cluster.nodes[0]
    root = host_files(tmp_path, {"/etc/containerd/config.toml": text, **hosts_of(node)})
    expect(examined(node, root), code, remedy)


def test_containerd_that_does_not_ask_the_mirror_what_tags_stand_for(cluster: Cluster, root: Path) -> None:
    url = cluster.nodes[0].url
    host_files(root, {f"{CERTS}/{HUB}/hosts.toml": f'[host."{url}"]\ncapabilities = ["pull"]\n'})
    found = examined(cluster.nodes[0], root)
    expect(found, "containerd-capabilities", '["pull", "resolve"]', f"{CERTS}/{HUB}/hosts.toml", level="warning")


def test_containerd_that_asks_for_what_the_node_does_not_stand_for(cluster: Cluster, root: Path) -> None:
    host = f'[host."{cluster.nodes[0].url}"]\n'
    host_files(root, {f"{CERTS}/quay.io/hosts.toml": host, f"{CERTS}/registry.example_5000_/hosts.toml": host})
    expect(examined(cluster.nodes[0], root), "containerd-unserved", "quay.io, registry.example:5000", "proxy.upstreams")


def test_docker_that_is_to_ask_for_another_registry(cluster: Cluster, tmp_path: Path) -> None:
    node = Node(tmp_path / "node", {"quay.io": cluster.origin.url})
    root = host_files(tmp_path / "root", {"/etc/docker/daemon.json": json.dumps({"registry-mirrors": [node.url]})})
    expect(examined(node, root), "docker-other-registry", "proxy.tunnel.enabled", "HTTPS_PROXY")


def test_a_runtime_that_nobody_has_told(cluster: Cluster, tmp_path: Path) -> None:
    root = host_files(tmp_path, {"/etc/docker/daemon.json": "{}"})
    expect(examined(cluster.nodes[0], root), "docker-mirror", "shoal config docker --write")


def test_a_mirror_that_is_configured_and_never_asked(cluster: Cluster, tmp_path: Path, stack: ExitStack) -> None:
    Containerd.require()
    node = cluster.node(tmp_path / "node")
    node.start(stack)
    root = configured(tmp_path / "root", node)
    client = Containerd(stack)
    client.configure(Mirror(cluster.origin.url, cluster.origin.url))
    client.pull(f"{REPOSITORY}:latest")
    content = "io.containerd.content.v1.content"
    shutil.copytree(client.root / content, root / "var/lib/containerd" / content, copy_function=shutil.copy2)
    expect(
        examined(node, root), "mirror-never-asked", "systemctl restart containerd", "shoal config containerd --check"
    )


def test_an_http_proxy_that_swallows_what_is_meant_for_the_mirror(cluster: Cluster) -> None:
    # the runtime's program is known by its name, and what it has in its environment is all that matters
    command, proxied = ["dockerd", "60"], {"HTTP_PROXY": "http://proxy.example:3128"}
    with subprocess.Popen(command, executable="/bin/sleep", env=proxied) as process:
        found = examined(cluster.nodes[0], Path("/"), SHOAL_PROXY__HOST="10.77.0.2")
        process.kill()
    expect(found, "runtime-http-proxy", "10.77.0.2 to NO_PROXY", "systemctl edit docker`")


def test_an_http_proxy_in_dockers_own_file(cluster: Cluster, tmp_path: Path) -> None:
    for excluded, is_found in (("", True), ("office,10.77.0.0/16", False)):
        told = {
            "registry-mirrors": [f"http://10.77.0.2:{cluster.nodes[0].proxy_port}"],
            "proxies": {"http-proxy": "http://proxy.example:3128", "no-proxy": excluded},
        }
        root = host_files(tmp_path, {"/etc/docker/daemon.json": json.dumps(told)})
        found = examined(cluster.nodes[0], root, SHOAL_PROXY__HOST="10.77.0.2")
        assert ("runtime-http-proxy" in found.faults) is is_found


# --- the daemon -----------------------------------------------------------------------------------------------------


def test_a_daemon_that_does_not_run(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    expect(examined(cluster.node(tmp_path / "node"), root), "daemon-down", "systemctl start shoal-peer", "shoal peer")


def test_a_daemon_that_hangs(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    node = cluster.node(tmp_path / "node")
    with node.daemon() as daemon:
        daemon.wait_for(node.operations_port)
        daemon.process.send_signal(signal.SIGSTOP)
        found = examined(node, root)
        daemon.process.send_signal(signal.SIGCONT)
    expect(found, "daemon-silent", "journalctl -u shoal-peer", "restart shoal-peer")
    assert "part-unfinished" not in found.faults, "the rest is looked at all the same"


def test_two_daemons_on_one_port(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    first, second = cluster.nodes[0], cluster.node(tmp_path / "second")
    second.proxy_port = first.proxy_port
    with second.daemon() as daemon:
        assert daemon.process.wait(20) == 1, "its port is taken"
    found = examined(second, root)
    expect(found, "port-taken", "Stop process", "`proxy.port`")
    assert "shoal.cli peer" in found.fault("port-taken").text


def test_another_daemon_that_answers_in_the_place_of_this_one(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    other = cluster.node(tmp_path / "other")
    other.operations_port = cluster.nodes[0].operations_port
    expect(examined(other, root), "daemon-other", "--config FILE", "peer.operations.port")


def test_a_program_in_the_daemons_place(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    node = cluster.node(tmp_path / "node")
    stack.enter_context(served(node.operations_port))
    expect(examined(node, root), "daemon-foreign", "peer.operations.port")


@contextmanager
def served(
    port: int, tls: ssl.SSLContext | None = None, handler: type[BaseHTTPRequestHandler] = BaseHTTPRequestHandler
) -> Iterator[None]:
    """A program that knows nothing of Shoal."""
    server = HTTPServer(("127.0.0.1", port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_configuration_that_is_not_there(root: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.toml")
    found = Examiner(root).run("--config", missing)
    assert found.code == 2
    assert missing in found.fault("configuration-unusable").text


# --- the supernode --------------------------------------------------------------------------------------------------


def test_a_supernode_that_is_not_there(cluster: Cluster, root: Path) -> None:
    (port,) = free_ports(1)
    found = examined(cluster.nodes[0], root, "--supernode", f"http://127.0.0.1:{port}")
    expect(found, "supernode-refused", "peer.supernode", "shoal supernode")


def test_a_supernodes_name_that_nobody_knows(cluster: Cluster, root: Path) -> None:
    found = examined(cluster.nodes[0], root, "--supernode", "http://supernode.invalid:5090")
    expect(found, "supernode-name", "/etc/hosts")


def test_a_supernodes_name_with_an_address_that_does_not_answer(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    require_root()
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost super.test\n127.0.0.9 super.test\n")
    within = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    found = Examiner(root, cluster.nodes[0].environment, prefix=within).run(
        "--supernode", f"http://super.test:{cluster.supernode.port}"
    )
    expect(found, "supernode-partly-reached", "super.test", "supernode.host")
    assert f"127.0.0.9:{cluster.supernode.port}: nobody listens" in found.fault("supernode-partly-reached").text
    expect(found, "supernode-name-loopback", "/etc/hosts", "peer.advertise", level="warning")


@pytest.mark.parametrize("runs", [True, False])
def test_another_secret_than_the_clusters(
    cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack, runs: bool
) -> None:
    node = cluster.node(tmp_path / "node", SHOAL_CLUSTER__SECRET="the secret of another cluster")
    if runs:
        stack.enter_context(node.daemon()).wait_for(node.proxy_port)
    expect(examined(node, root), "supernode-stranger", "cluster.secret_file")


def test_no_secret_where_the_cluster_has_one(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    node = Node(tmp_path / "node", {HUB: cluster.origin.url}, cluster.supernode.port)
    stack.enter_context(node.daemon()).wait_for(node.proxy_port)
    wait_until(lambda: "supernode.refused" in node.log, "it is turned away")
    expect(examined(node, root), "supernode-turns-away", "Make `cluster` the same")


_OTHER_VERSION = """
import supernode.protocol
supernode.protocol.VERSION = 99
from shoal.cli import main
main(["supernode"], prog_name="shoal")
"""


def test_a_supernode_of_another_version(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    port, operations = free_ports(2)
    settings = {"SHOAL_SUPERNODE__PORT": str(port), "SHOAL_SUPERNODE__OPERATIONS__PORT": str(operations), **MEMBERS}
    settings["SHOAL_SUPERNODE__STATE"] = str(tmp_path / "state")
    command = [sys.executable, "-c", _OTHER_VERSION]
    stack.enter_context(Daemon(command, tmp_path / "log", settings)).wait_for(port)
    node = Node(tmp_path / "node", {HUB: cluster.origin.url}, port, settings=dict(MEMBERS))
    stack.enter_context(node.daemon()).wait_for(node.proxy_port)
    wait_until(lambda: "supernode.refused" in node.log, "it is turned away")
    expect(examined(node, root), "supernode-version", "one version of Shoal")


def members(authority: Authority, name: str) -> dict[str, str]:
    """The cluster's settings of a node with a certificate of this authority."""
    settings = authority.members(name)
    return {f"SHOAL_CLUSTER__{key.upper()}": getattr(settings, key) for key in ("cert_file", "key_file", "ca_file")}


@dataclass
class Certified:
    """A supernode that knows members by certificates."""

    authority: Authority
    url: str


@pytest.fixture
def certified(tmp_path: Path, stack: ExitStack) -> Certified:
    authority = Authority(tmp_path / "authority")
    supernode = Supernode(tmp_path / "certified", members(authority, "127.0.0.1"))
    supernode.start(stack)
    return Certified(authority, f"https://127.0.0.1:{supernode.port}")


def test_tls_where_the_cluster_has_none(cluster: Cluster, root: Path) -> None:
    found = examined(cluster.nodes[0], root, "--supernode", f"https://127.0.0.1:{cluster.supernode.port}")
    expect(found, "supernode-foreign", "`http://` where it has none")


def test_everybody_may_be_a_member_at_an_address_of_the_internet(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "node", {HUB: cluster.origin.url}, settings={"SHOAL_CLUSTER__INSECURE": "true"})
    expect(examined(node, root), "daemon-down", "systemctl start shoal")
    found = examined(node, root, "--advertise", "8.8.8.8")
    assert found.fault("cluster-open").level == "warning"


def test_an_authority_that_is_not_the_clusters(
    certified: Certified, cluster: Cluster, root: Path, tmp_path: Path
) -> None:
    own = members(Authority(tmp_path / "other"), "node")
    node = Node(tmp_path / "node", {HUB: cluster.origin.url}, settings=own)
    expect(examined(node, root, "--supernode", certified.url), "supernode-tls", "cluster.ca_file")


def test_certificates_that_have_expired(certified: Certified, cluster: Cluster, root: Path, tmp_path: Path) -> None:
    require("faketime")
    node = Node(tmp_path / "node", {HUB: cluster.origin.url}, settings=members(certified.authority, "node"))
    later = Examiner(root, node.environment, prefix=["faketime", "-f", "+5d"])
    found = later.run("--supernode", certified.url, FAKETIME_DONT_FAKE_MONOTONIC="1")
    expect(found, "certificate-expired", "node.crt")
    expect(found, "supernode-tls", "cluster.ca_file")


# --- other nodes ----------------------------------------------------------------------------------------------------


@dataclass
class Nodes:
    """Two nodes, each on a host of its own, and a third host with their supernode and their origin."""

    network: Network
    origin: Registry
    supernode: Supernode
    nodes: list[Node]
    make: Callable[..., Node]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    require_root()
    require("ip", "tc", "iptables", "docker-registry")
    folder = tmp_path_factory.mktemp("network")
    with ExitStack() as stack:
        net = stack.enter_context(Network([0, 0, 0], "reno"))
        middle, *hosts = net.hosts
        origin = Registry(folder / "origin", host=middle)
        origin.start(stack)
        supernode = Supernode(folder / "supernode", MEMBERS, middle)
        supernode.start(stack)

        def make(name: str, host: Host, **settings: str) -> Node:
            return Node(
                folder / name,
                {HUB: origin.url},
                supernode.port,
                settings=MEMBERS | settings,
                host=host,
                supernode_address=middle.address,
            )

        nodes = [make(f"node{place}", host) for place, host in enumerate(hosts)]
        for node in nodes:
            node.start(stack)
        yield Nodes(net, origin, supernode, nodes, make)


def test_nodes_that_reach_each_other_are_well(network: Nodes, tmp_path: Path) -> None:
    for place, node in enumerate(network.nodes):
        found = examined(node, configured(tmp_path / f"{place}", node))
        assert found.faults == {}
        assert "inbound-open" in {finding.code for finding in found.findings}


@contextmanager
def firewall(host: Host, *rule: str) -> Iterator[None]:
    subprocess.run(host.command(["iptables", "-A", *rule]), check=True)
    try:
        yield
    finally:
        subprocess.run(host.command(["iptables", "-D", *rule]), check=True)


def test_a_firewall_between_peers(network: Nodes, tmp_path: Path) -> None:
    behind, other = network.nodes
    assert behind.host is not None
    rule = ("INPUT", "-p", "tcp", "--dport", str(behind.peer_port), "-j", "DROP")
    with firewall(behind.host, *rule):
        seen = seen_soon(behind, configured(tmp_path / "behind", behind), "inbound-blocked")
        expect(seen, "inbound-blocked", f"TCP port {behind.peer_port}", "ufw allow", "peer.advertise")
        assert f"{behind.host.address}:{behind.peer_port}" in seen.fault("inbound-blocked").text
        seen = seen_soon(other, configured(tmp_path / "other", other), "outbound-blocked")
        expect(seen, "outbound-blocked", f"TCP port {behind.peer_port}")


def seen_soon(node: Node, root: Path, code: str) -> Examined:
    """As soon as there is that fault: what others have seen of a node counts for some seconds."""
    seen: list[Examined] = []

    def is_seen() -> bool:
        seen.append(examined(node, root))
        return code in seen[-1].faults

    wait_until(is_seen, code)
    return seen[-1]


def test_an_address_where_this_node_is_not(network: Nodes, tmp_path: Path, stack: ExitStack) -> None:
    host = network.nodes[0].host
    assert host is not None
    node = network.make("astray", host, SHOAL_PEER__ADVERTISE="10.77.0.99")
    node.start(stack)
    found = examined(node, configured(tmp_path, node))
    expect(found, "inbound-blocked", "10.77.0.99", "peer.advertise")


def test_a_node_that_others_are_told_to_find_on_loopback(network: Nodes, tmp_path: Path, stack: ExitStack) -> None:
    node = network.make("loopback", network.network.hosts[0])
    node.supernode_address = "127.0.0.1"
    node.start(stack)
    found = examined(node, configured(tmp_path, node))
    expect(found, "address-loopback", "`peer.supernode`", "`peer.advertise`")


def test_a_supernode_that_this_node_alone_does_not_reach(network: Nodes, tmp_path: Path) -> None:
    node, middle = network.nodes[0], network.network.hosts[0]
    assert node.host is not None
    rule = ("OUTPUT", "-p", "tcp", "-d", middle.address, "--dport", str(network.supernode.port), "-j", "DROP")
    with firewall(node.host, *rule):
        found = examined(node, configured(tmp_path, node))
    expect(found, "supernode-silent", f"TCP port {network.supernode.port}", middle.address)
    wait_until(lambda: node.counted("shoal_supernode_connected") == 1, "it is back")


def test_a_name_server_that_does_not_answer(network: Nodes, tmp_path: Path) -> None:
    node, middle = network.nodes[0], network.network.hosts[0]
    assert node.host is not None
    servers, switch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    servers.write_text(f"nameserver {middle.address}\n")
    switch.write_text("hosts: files dns\n")
    mounts = f"mount --bind {servers} /etc/resolv.conf && mount --bind {switch} /etc/nsswitch.conf"
    within = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    examiner = Examiner(configured(tmp_path / "root", node), node.environment, node.host, within)
    with firewall(middle, "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP"):
        found = examiner.run("--supernode", "http://super.example:5090", **upstream("https://registry.example"))
    expect(found, "supernode-name", "/etc/hosts")
    expect(found, "origin-name", "/etc/resolv.conf")
    assert "part-unfinished" not in found.faults


def test_a_way_that_swallows_large_packets(network: Nodes, tmp_path: Path, stack: ExitStack) -> None:
    giver, taker = network.nodes
    assert giver.host is not None
    assert taker.host is not None
    for host, other in ((giver.host, taker.host), (taker.host, giver.host)):
        rule = ("INPUT", "-p", "tcp", "-s", other.address, "-m", "length", "--length", "1300:65535", "-j", "DROP")
        stack.enter_context(firewall(host, *rule))
    for place in range(3):  # a small piece comes in between, as of a manifest
        image = write_image(network.origin.root, f"library/large{place}", [MIB, MIB])
        for digest, size in image.blobs:
            for node in (giver, taker):
                assert len(get(node, f"/v2/library/large{place}/blobs/{digest}").body) == size
    found = examined(taker, configured(tmp_path, taker))
    assert "inbound-open" in {finding.code for finding in found.findings}, "small packets pass"
    expect(found, "neighbours-silent", f"ping -M do -s 1472 {giver.host.address}", "mtu 1400")


# --- origins and credentials ----------------------------------------------------------------------------------------


def test_credentials_that_have_expired(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    tokens = TokenServer(Authority(tmp_path / "tokens"), {"alice": "what it is now"}, {"alice": ["*"]})
    tokens.start(stack)
    private = Registry(tmp_path / "private", tokens=tokens).start(stack)
    logins = tmp_path / "config.json"
    logins.write_text(docker_config({"https://index.docker.io/v1/": ("alice", "what it was")}))
    node = cluster.node(tmp_path / "node", **upstream(private.url, docker_config=str(logins)))
    expect(examined(node, root), "credentials-refused", "docker login", str(logins))


def test_a_password_that_is_wrong_and_one_that_is_not_there(
    cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack
) -> None:
    private = Registry(tmp_path / "private", htpasswd=True).start(stack)
    password = tmp_path / "password"
    settings = upstream(private.url, username="alice", password_file=str(password))
    node = cluster.node(tmp_path / "node", **settings)
    expect(examined(node, root), "credentials-unreadable", HUB)
    password.write_text("what it was")
    expect(examined(node, root), "credentials-refused", str(password))


def test_an_origin_at_its_rate_limit(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    front = Front(cluster.origin.url, faults={"library": Fault(status=429)}).start(stack)
    node = cluster.node(tmp_path / "node", **upstream(f"http://127.0.0.1:{front.port}"))
    node.start(stack)
    get(node, f"/v2/{REPOSITORY}/manifests/other")
    expect(examined(node, root), "origin-limited", "username", "proxy.tag_freshness")


def test_an_origin_of_an_unknown_authority(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    certificate = Authority(tmp_path / "unknown").issue("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
    (port,) = free_ports(1)
    stack.enter_context(served(port, tls))
    node = cluster.node(tmp_path / "node", **upstream(f"https://localhost:{port}"))
    expect(examined(node, root), "origin-tls", "ca_file")


class _Page(BaseHTTPRequestHandler):
    """What a network answers in the place of a registry until somebody has signed in to it."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>")


class _Refusal(_Page):
    status = 403


class _Failure(_Page):
    status = 503


class _Nobody(_Page):
    """Asks for a login, and does not say where."""

    status = 401

    def end_headers(self) -> None:
        self.send_header("WWW-Authenticate", 'Bearer realm="/token"')
        super().end_headers()


@pytest.mark.parametrize(
    ("handler", "scheme", "code", "word"),
    [
        (_Page, "http", "origin-foreign", "sign in there"),
        (_Refusal, "http", "origin-forbidden", "http_proxy"),
        (_Failure, "http", "origin-failing", "log"),
        (_Nobody, "http", "origin-realm", "curl -si http://127.0.0.1"),
        (_Page, "https", "origin-plain", "Write `http://`"),
    ],
)
def test_what_answers_in_the_place_of_an_origin(
    cluster: Cluster,
    root: Path,
    tmp_path: Path,
    stack: ExitStack,
    handler: type[_Page],
    scheme: str,
    code: str,
    word: str,
) -> None:
    (port,) = free_ports(1)
    stack.enter_context(served(port, handler=handler))
    node = cluster.node(tmp_path / "node", **upstream(f"{scheme}://127.0.0.1:{port}"))
    expect(examined(node, root), code, word)


def test_an_origins_name_that_nobody_knows(cluster: Cluster, root: Path, tmp_path: Path) -> None:
    node = cluster.node(tmp_path / "node", **upstream("https://registry.invalid"))
    expect(examined(node, root), "origin-name", "/etc/resolv.conf")


def test_an_image_that_the_mirror_does_not_stand_for(cluster: Cluster, root: Path) -> None:
    found = examined(cluster.nodes[0], root, "--image", "quay.io/nobody/nothing:1")
    expect(found, "image-refused", "proxy.upstreams")


# --- the machine ----------------------------------------------------------------------------------------------------


def test_a_clock_that_is_wrong(cluster: Cluster, root: Path) -> None:
    require("faketime")
    later = Examiner(root, cluster.nodes[0].environment, prefix=["faketime", "-f", "+2h"])
    expect(later.run(FAKETIME_DONT_FAKE_MONOTONIC="1"), "clock-wrong", "timedatectl set-ntp true")


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    require_root()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    node = cluster.node(tmp_path / "node")
    store = node.folder / "store"
    stack.enter_context(mounted(store, "-t", "tmpfs", "-o", "size=16m", "tmpfs"))
    node.start(stack)
    with (store / "somebody-elses").open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(MIB))
    found = examined(node, root)
    expect(found, "disk-full", f"du -xh {store}", "shoal gc", "peer.store")
    expect(found, "store-in-memory", "peer.store", level="warning")


def test_a_store_that_is_read_only(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    node = cluster.node(tmp_path / "node")
    store = node.folder / "store"
    stack.enter_context(mounted(store, "--bind", str(store)))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(store)], check=True)
    expect(examined(node, root), "store-read-only", "mount it writable")


def test_few_descriptors(cluster: Cluster, root: Path, tmp_path: Path, stack: ExitStack) -> None:
    node = cluster.node(tmp_path / "node")
    node.descriptors = 256
    node.start(stack)
    expect(examined(node, root), "descriptors-few", "LimitNOFILE=65536", "--ulimit")
