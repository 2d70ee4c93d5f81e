"""What facts mean to `shoal doctor`: each decision by itself, without any daemon, file or network."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from peer.settings import CacheSettings
from proxy.checkup import Asker, Checkup, FailedCall, Particulars, SilentNeighbour
from proxy.settings import UpstreamSettings
from shoal.cli.doctor.clocks import Reading, judge_clock
from shoal.cli.doctor.daemon import DaemonFacts, File, MirrorAnswer, Port, Wanted, judge_daemon
from shoal.cli.doctor.descriptors import judge_descriptors
from shoal.cli.doctor.disk import DiskFacts, judge_disk
from shoal.cli.doctor.listeners import Listener
from shoal.cli.doctor.membership import Certificate, Means, judge_configuration
from shoal.cli.doctor.neighbours import judge_neighbours
from shoal.cli.doctor.node import NodeAnswer, PullState, Status, UpstreamState
from shoal.cli.doctor.origins import OriginAnswer, Place, judge_limit, judge_origin
from shoal.cli.doctor.runtimes import Swallower, judge_runtimes
from shoal.cli.doctor.runtimestates import RuntimeState
from shoal.cli.doctor.supernode import Attempt, Proof, SupernodeFacts, judge_supernode
from shoal.cli.doctor.swarm import ImageAnswer, Use, judge_image, judge_use
from shoal.cli.finding import Finding
from shoal.cli.runtimes.mirror import Mirror
from shoal.reference import DOCKER_HUB
from shoal.version import VERSION
from supernode.protocol import Call, Outcome, Probed

GIB = 1 << 30
STORE = "/var/lib/shoal"
SUPERNODE = "http://10.0.0.1:5090"
PROBE = Probed(1, "10.0.0.2", 5081, 2, [Call("c" * 32, "10.0.0.3", 5081, Outcome.REACHED)])
CHECKUP = Checkup(
    Particulars(42, VERSION, STORE, "127.0.0.1:5080", "0.0.0.0:5081", SUPERNODE, 7200.0),
    uptime=7200.0,
    supernode_connected=True,
    trouble="",
    trouble_text="",
    neighbours=1,
    visitors=2,
    turned_away="",
    failed_calls=[],
    silent=[],
    probe=PROBE,
    askers=[Asker("docker/28.2.2", 60.0, 7)],
    received={"peer": GIB, "origin": GIB},
    descriptors=100,
    max_descriptors=65536,
)
STATUS = Status("", [])
DOWN = NodeAnswer("127.0.0.1:5082", fault="refused", detail="Connection refused")
WANTED = Wanted(STORE, "127.0.0.1:5080", "5081", SUPERNODE)
SERVES = MirrorAnswer("http://127.0.0.1:5080", 200)
LOOPBACK = "127.0.0.1"
NOBODY = (Port("proxy.port", LOOPBACK, 5080, None), Port("peer.operations.port", LOOPBACK, 5082, None))
OTHER = Port("proxy.port", LOOPBACK, 5080, Listener(7, "nginx -g daemon off;"))
ONE, TWO = Port("proxy.port", LOOPBACK, 5080, None), Port("peer.port", "0.0.0.0", 5080, None)


def up(**changes: object) -> NodeAnswer:
    """The daemon's answer, well but for these fields of its checkup."""
    return NodeAnswer("127.0.0.1:5082", msgspec.structs.replace(CHECKUP, **changes), STATUS)


def only(found: Sequence[Finding], *words: str) -> str:
    """The code of the only finding that is not well; its remedy has these words."""
    (bad,) = [finding for finding in found if finding.level != "ok"]
    for word in words:
        assert word in bad.remedy, bad
    return bad.code


def well(found: Sequence[Finding]) -> bool:
    return bool(found) and all(finding.level == "ok" and not finding.remedy for finding in found)


# --- the configuration ----------------------------------------------------------------------------------------------


def test_a_configuration_without_faults_is_well() -> None:
    good = Certificate("cluster.cert_file", "/etc/shoal/node.crt", 0.0, 1e9)
    assert well(judge_configuration(Means(), 0.0))
    assert well(judge_configuration(Means(certificates=(good,)), 1e8))


@pytest.mark.parametrize(
    ("now", "code"),
    [(5.0, "certificate-too-early"), (1e9 - 86_400, "certificate-expires"), (2e9, "certificate-expired")],
)
def test_a_certificate_is_good_for_a_time(now: float, code: str) -> None:
    certificate = Certificate("cluster.cert_file", "/etc/shoal/node.crt", 10.0, 1e9)
    assert only(judge_configuration(Means(certificates=(certificate,)), now), "/etc/shoal/node.crt") == code


def test_an_authority_is_made_anew_with_the_key_that_it_has() -> None:
    certificate = Certificate("cluster.ca_file", "/etc/shoal/ca.crt", 10.0, 1e9)
    found = judge_configuration(Means(certificates=(certificate,)), 2e9)
    assert only(found, "the same key", "/etc/shoal/ca.crt on all nodes") == "certificate-expired"


def test_what_members_are_known_by_has_to_be_there() -> None:
    fault = "`cluster.secret_file` '/etc/shoal/secret' cannot be read: No such file or directory"
    assert only(judge_configuration(Means(fault), 0.0), "daemon's user") == "cluster-unusable"
    assert only(judge_configuration(Means(fault, hidden=True), 0.0), "as root") == "cluster-unseen"
    public = judge_configuration(Means(public="8.8.8.8"), 0.0)
    assert [each.level for each in public] == ["warning"]
    assert only(public, "cluster.secret_file", "firewall") == "cluster-open"
    exposed = Means(exposed="`peer.host` '0.0.0.0' is reached from other machines")
    assert only(judge_configuration(exposed, 0.0), "cluster.secret_file", "cluster.insecure") == "cluster-exposed"


# --- the daemon -----------------------------------------------------------------------------------------------------


def test_a_daemon_that_runs_as_configured_is_well() -> None:
    assert well(judge_daemon(DaemonFacts(up(), WANTED, SERVES, NOBODY)))


def test_one_port_at_two_addresses_is_no_fault() -> None:
    ports = Port("proxy.port", "127.0.0.1", 5080, None), Port("peer.port", "10.0.0.2", 5080, None)
    assert only(judge_daemon(DaemonFacts(DOWN, WANTED, SERVES, ports))) == "daemon-down"


def test_a_file_that_is_older_than_the_daemon_is_no_fault() -> None:
    assert well(judge_daemon(DaemonFacts(up(), WANTED, SERVES, NOBODY, file=File("/etc/shoal/shoal.toml", 7201.0))))


def test_a_supernode_that_the_daemon_was_given_by_a_flag_is_no_fault() -> None:
    wanted = Wanted(STORE, "127.0.0.1:5080", "5081", "")
    assert well(judge_daemon(DaemonFacts(up(), wanted, SERVES, NOBODY)))


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (DaemonFacts(DOWN, WANTED, MirrorAnswer(SERVES.url, fault="refused"), NOBODY), "daemon-down", ["shoal peer"]),
        (
            DaemonFacts(DOWN, WANTED, SERVES, (OTHER,)),
            "port-taken",
            ["process 7 (nginx", "proxy.port", "peer.store"],
        ),
        (
            DaemonFacts(
                DOWN,
                WANTED,
                SERVES,
                (ONE, TWO),
            ),
            "ports-equal",
            ["`proxy.port` and `peer.port`"],
        ),
        (
            DaemonFacts(up(), WANTED, SERVES, NOBODY, file=File("/etc/shoal/shoal.toml", 60.0)),
            "daemon-not-reloaded",
            ["shoal reload"],
        ),
        (
            DaemonFacts(NodeAnswer("127.0.0.1:5082", fault="silent", detail="no answer"), WANTED, SERVES, NOBODY),
            "daemon-silent",
            ["journalctl"],
        ),
        (
            DaemonFacts(NodeAnswer("127.0.0.1:5082", fault="foreign", detail="status 404"), WANTED, SERVES, NOBODY),
            "daemon-foreign",
            ["peer.operations.port"],
        ),
        (
            DaemonFacts(NodeAnswer("127.0.0.1:5082", fault="forbidden"), WANTED, SERVES, NOBODY),
            "daemon-unseen",
            ["as root"],
        ),
        (
            DaemonFacts(up(), Wanted("/srv/other", "127.0.0.1:5080", "5081", SUPERNODE), SERVES, NOBODY),
            "daemon-other",
            ["--config FILE", "peer.operations.port"],
        ),
        (
            DaemonFacts(up(), Wanted(STORE, "127.0.0.1:5080", "5081", "http://10.9.9.9:5090"), SERVES, NOBODY),
            "daemon-other-supernode",
            ["Restart"],
        ),
        (
            DaemonFacts(
                up(particulars=msgspec.structs.replace(CHECKUP.particulars, version="0.0.1")), WANTED, SERVES, NOBODY
            ),
            "daemon-version",
            ["systemctl restart shoal-peer"],
        ),
        (
            DaemonFacts(up(), WANTED, SERVES, NOBODY, "the operator's token cannot be read: Permission denied"),
            "token-unreadable",
            ["as root"],
        ),
        (
            DaemonFacts(up(), WANTED, MirrorAnswer(SERVES.url, fault="refused"), NOBODY),
            "mirror-unreached",
            ["proxy.host", "proxy.port"],
        ),
        (
            DaemonFacts(up(), WANTED, MirrorAnswer(SERVES.url, 200, "foreign"), (OTHER,)),
            "mirror-foreign",
            ["proxy.port"],
        ),
        (
            DaemonFacts(up(), WANTED, MirrorAnswer(SERVES.url, fault="no answer in time"), NOBODY),
            "mirror-silent",
            ["journalctl"],
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_fault_of_the_daemon_has_its_name_and_remedy(facts: DaemonFacts, code: str, words: list[str]) -> None:
    assert only(judge_daemon(facts), *words) == code


# --- runtimes -------------------------------------------------------------------------------------------------------

MIRROR = Mirror("http://10.0.0.2:5080", (), DOCKER_HUB, False)
CONFIGURED = RuntimeState("docker", True, (Finding("docker-configured", "ok", "docker asks the mirror."),))
BROKEN = Finding("containerd-mirrors-shadow", "error", "containerd has both.", "Run `shoal config containerd --write`.")


def test_a_runtime_that_asks_the_mirror_is_well_and_a_host_without_any_is_told() -> None:
    assert well(judge_runtimes([CONFIGURED], [], [], MIRROR))
    assert only(judge_runtimes([], [], [], MIRROR), "shoal config") == "runtime-none"


def test_beside_a_runtime_that_asks_another_that_was_never_configured_is_a_warning() -> None:
    untouched, touched = (RuntimeState("containerd", touched, (BROKEN,)) for touched in (False, True))
    levels = [
        judge_runtimes(states, [], [], MIRROR)[-1].level for states in ([CONFIGURED, untouched], [CONFIGURED, touched])
    ]
    assert levels == ["warning", "error"]
    assert judge_runtimes([untouched], [], [], MIRROR)[0].level == "error"


def test_registries_that_the_node_does_not_stand_for_are_told() -> None:
    found = judge_runtimes([CONFIGURED], [], ["quay.io", "ghcr.io"], MIRROR)
    assert only(found, "Name quay.io, ghcr.io in `proxy.upstreams`") == "containerd-unserved"


def test_an_http_proxy_of_a_runtime_is_told_with_whom_to_spare() -> None:
    swallower = Swallower("dockerd", "`proxies` in daemon.json", "its `no-proxy` there", "docker")
    found = judge_runtimes([CONFIGURED], [swallower], [], MIRROR)
    assert only(found, "Add 10.0.0.2 to its `no-proxy`", "systemctl restart docker") == "runtime-http-proxy"


# --- the supernode --------------------------------------------------------------------------------------------------

REACHED = (Attempt("10.0.0.1:5090", Outcome.REACHED),)


def test_a_supernode_that_is_reached_is_well() -> None:
    facts = SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof())
    assert well(judge_supernode(facts, up()))
    assert well(judge_supernode(facts, DOWN))


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (SupernodeFacts(""), "supernode-none", ["peer.supernode"]),
        (SupernodeFacts("http://super:5090", resolved="unknown"), "supernode-name", ["/etc/hosts", "super"]),
        (
            SupernodeFacts(SUPERNODE, attempts=(Attempt("[2001:db8::7]:5090", Outcome.UNROUTED),)),
            "supernode-silent",
            ["ip route get 2001:db8::7", "peer.supernode"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=(Attempt("10.0.0.1:5090", Outcome.REFUSED),)),
            "supernode-refused",
            ["supernode.host", "5090"],
        ),
        (
            SupernodeFacts("http://127.0.0.1:5090", attempts=(Attempt("127.0.0.1:5090", Outcome.REFUSED),)),
            "supernode-refused",
            ["this machine itself", "peer.supernode"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=(Attempt("10.0.0.1:5090", Outcome.SILENT),)),
            "supernode-silent",
            ["TCP port 5090", "firewall"],
        ),
        (
            SupernodeFacts(
                "http://super:5090",
                attempts=(*REACHED, Attempt("10.9.0.1:5090", Outcome.SILENT)),
                proof=Proof(),
            ),
            "supernode-partly-reached",
            ["super"],
        ),
        (
            SupernodeFacts("http://super:5090", attempts=(Attempt("127.0.1.1:5090", Outcome.REACHED),), proof=Proof()),
            "supernode-name-loopback",
            ["/etc/hosts", "peer.advertise"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof("tls", "certificate has expired")),
            "supernode-tls",
            ["cluster.ca_file"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof("stranger", "no")),
            "supernode-stranger",
            ["cluster.secret_file"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof("foreign", "it answers 404")),
            "supernode-foreign",
            ["peer.supernode", "https://"],
        ),
        (
            SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof("silent", "nothing")),
            "supernode-stuck",
            ["restart"],
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_fault_on_the_way_to_the_supernode(facts: SupernodeFacts, code: str, words: list[str]) -> None:
    assert only(judge_supernode(facts, up()), *words) == code


@pytest.mark.parametrize(
    ("kind", "text", "code", "word"),
    [
        ("refused", "version 3 is not spoken here (allowed: 2)", "supernode-version", "one version"),
        ("refused", "this supernode has as many peers as it may have", "supernode-turns-away", "log"),
        ("stranger", "the supernode ended the handshake", "supernode-stranger", "cluster.secret_file"),
        ("unreachable", "TimeoutError()", "supernode-lost", "restart the daemon"),
    ],
)
def test_what_the_daemon_says_of_the_supernode_counts(kind: str, text: str, code: str, word: str) -> None:
    node = up(supernode_connected=False, trouble=kind, trouble_text=text)
    facts = SupernodeFacts(SUPERNODE, attempts=REACHED, proof=Proof())
    found = judge_supernode(facts, node)
    assert only(found, word) == code
    assert text in found[0].text


# --- other nodes ----------------------------------------------------------------------------------------------------


def probed(*outcomes: str, host: str = "10.0.0.2", elsewhere: int = 2) -> NodeAnswer:
    calls = [Call("c" * 32, f"10.0.0.{place}", 5081, outcome) for place, outcome in enumerate(outcomes, 3)]
    return up(probe=Probed(1, host, 5081, elsewhere, calls))


def failed(outcome: str, last: float = 5.0, times: int = 3) -> NodeAnswer:
    return up(failed_calls=[FailedCall("10.0.0.9", 5081, outcome, 60.0, last, times)])


def silent(last: float = 5.0, times: int = 3) -> NodeAnswer:
    return up(silent=[SilentNeighbour("10.0.0.9", 60.0, last, times)])


def test_a_node_that_others_reach_is_well_and_so_is_one_that_is_alone() -> None:
    assert well(judge_neighbours(up()))
    assert well(judge_neighbours(probed(Outcome.REACHED, Outcome.REACHED)))
    assert well(judge_neighbours(probed(elsewhere=0)))


@pytest.mark.parametrize(
    ("node", "code", "words"),
    [
        (DOWN, "neighbours-unseen", ["Start the daemon"]),
        (up(probe=None, visitors=0), "inbound-unseen", ["supernode"]),
        (probed(), "inbound-untried", ["10 s"]),
        (probed(Outcome.SILENT, Outcome.SILENT), "inbound-blocked", ["5081", "ufw allow 5081/tcp", "peer.advertise"]),
        (probed(Outcome.UNROUTED, Outcome.SILENT), "inbound-blocked", ["TCP port 5081"]),
        (probed(Outcome.REACHED, Outcome.SILENT), "inbound-partly", ["TCP port 5081"]),
        (probed(Outcome.REFUSED, Outcome.REFUSED), "inbound-refused", ["peer.host", "peer.advertise"]),
        (probed(Outcome.STRANGER), "inbound-stranger", ["peer.advertise", "peer.port"]),
        (probed(Outcome.UNRESOLVED, host="node-7"), "address-unresolved", ["peer.advertise"]),
        (probed(Outcome.REFUSED, host="127.0.0.1"), "address-loopback", ["peer.supernode", "peer.advertise"]),
        (failed(Outcome.SILENT), "outbound-blocked", ["TCP port 5081"]),
        (failed(Outcome.UNROUTED), "outbound-blocked", ["TCP port 5081"]),
        (failed(Outcome.REFUSED), "outbound-refused", ["peer.host"]),
        (failed(Outcome.UNRESOLVED), "outbound-unresolved", ["peer.advertise"]),
        (failed(Outcome.STRANGER), "outbound-stranger", ["cluster", "peer.advertise"]),
        (silent(), "neighbours-silent", ["ping -M do -s 1472 10.0.0.9", "mtu"]),
        (up(turned_away="10.0.0.8"), "stranger-called", ["cluster.secret_file"]),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_fault_between_nodes(node: NodeAnswer, code: str, words: list[str]) -> None:
    assert only(judge_neighbours(node), *words) == code


def test_loopback_is_a_fault_only_where_other_machines_are() -> None:
    assert well(judge_neighbours(probed(Outcome.REACHED, host="127.0.0.1", elsewhere=0)))


def test_old_failures_and_a_node_that_has_just_ended_are_no_faults() -> None:
    assert well(judge_neighbours(failed(Outcome.SILENT, last=300.0)))
    assert well(judge_neighbours(failed(Outcome.REFUSED, times=1)))
    assert well(judge_neighbours(silent(times=1)))
    assert well(judge_neighbours(silent(last=3600.0)))


# --- origins --------------------------------------------------------------------------------------------------------

HUB = Place("docker.io", 'proxy.upstreams."docker.io"', UpstreamSettings(url="https://registry-1.docker.io"))
LOGGED_IN = Place("quay.io", 'proxy.upstreams."quay.io"', UpstreamSettings(url="https://quay.io", docker_config="/c"))
BY_FILE = UpstreamSettings(url="https://quay.io", username="me", password_file="/etc/shoal/password")


def test_an_origin_that_answers_is_well() -> None:
    assert well(judge_origin(OriginAnswer(HUB, "reached")))
    assert well(judge_origin(OriginAnswer(HUB, "denied")))
    assert well(judge_origin(OriginAnswer(LOGGED_IN, "reached", signed_in=True)))


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (OriginAnswer(HUB, "denied", "401", signed_in=True), "credentials-refused", ["password_file"]),
        (OriginAnswer(LOGGED_IN, "denied", "401", signed_in=True), "credentials-refused", ["docker login quay.io"]),
        (
            OriginAnswer(Place("quay.io", "k", BY_FILE), "denied", "401", signed_in=True),
            "credentials-refused",
            ["/etc/shoal/password"],
        ),
        (OriginAnswer(LOGGED_IN, "reached"), "credentials-none", ["docker login quay.io"]),
        (OriginAnswer(HUB, "unreadable", "no such file"), "credentials-unreadable", ["docker.io"]),
        (OriginAnswer(HUB, "hidden", "permission"), "credentials-unseen", ["as root"]),
        (OriginAnswer(HUB, "limited", seconds=30.0), "origin-limited", ["username", "proxy.tag_freshness"]),
        (OriginAnswer(HUB, "missing", "404"), "origin-foreign", ["url"]),
        (OriginAnswer(HUB, "tls", "not trusted"), "origin-tls", ["ca_file"]),
        (OriginAnswer(HUB, "name", "unknown"), "origin-name", ["/etc/resolv.conf"]),
        (OriginAnswer(HUB, "realm", "none"), "origin-realm", ["curl -si https://registry-1.docker.io/v2/"]),
        (OriginAnswer(HUB, "failing", "500"), "origin-failing", ["load balancer"]),
        (OriginAnswer(HUB, "proxy", "407"), "origin-proxy", ["proxy.https_proxy"]),
        (OriginAnswer(HUB, "unreachable", "refused"), "origin-unreachable", ["registry-1.docker.io"]),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_fault_of_an_origin(answer: OriginAnswer, code: str, words: list[str]) -> None:
    assert only(judge_origin(answer), *words) == code


def test_the_daemons_word_on_rate_limits_counts() -> None:
    assert judge_limit(UpstreamState("docker.io", 100, 99, 0.0)) == []
    assert judge_limit(UpstreamState("docker.io", None, None, 0.0)) == []
    assert only(judge_limit(UpstreamState("docker.io", 100, 3, 0.0)), "username") == "origin-few-requests"
    assert only(judge_limit(UpstreamState("docker.io", None, None, 60.0)), "tag_freshness") == "origin-limited"


# --- the machine ----------------------------------------------------------------------------------------------------


def test_a_clock_that_is_right_is_well() -> None:
    assert well(judge_clock([Reading("the supernode", 0.4), Reading("docker.io", -0.5)]))
    assert only(judge_clock([]), "supernode") == "clock-unseen"


@pytest.mark.parametrize(
    ("offsets", "code", "level"),
    [
        ([20.0, 20.0], "clock-wrong", "warning"),
        ([-4000.0], "clock-wrong", "error"),
        ([0.1, 4000.0], "clock-elsewhere", "warning"),
    ],
)
def test_a_clock_that_is_wrong(offsets: list[float], code: str, level: str) -> None:
    found = judge_clock([Reading(f"place {number}", offset) for number, offset in enumerate(offsets)])
    assert (only(found, "timedatectl"), found[0].level) == (code, level)


DISK = DiskFacts(STORE, 100 * GIB, 50 * GIB, 1_000_000, "ext4", False, True, True, True, True)


def disk(**changes: object) -> DiskFacts:
    fields = {name: getattr(DISK, name) for name in DISK.__slots__}
    return DiskFacts(**(fields | changes))


def test_a_store_with_room_is_well() -> None:
    assert well(judge_disk(DISK, CacheSettings(), up()))
    assert well(judge_disk(disk(is_writable=False, is_owners=False), CacheSettings(), DOWN)), "it is the daemon's"
    assert well(judge_disk(disk(files_free=-1), CacheSettings(), up())), "btrfs counts no files"


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (disk(free=0), "disk-full", ["shoal gc", "peer.store"]),
        (disk(files_free=0), "disk-full", ["peer.store"]),
        (disk(free=4 * GIB), "disk-short", ["peer.cache.free"]),
        (disk(files_free=10), "disk-few-files", ["inodes"]),
        (disk(is_read_only=True), "store-read-only", ["mount it writable"]),
        (disk(is_folder=False), "store-no-folder", ["peer.store"]),
        (disk(is_writable=False), "store-not-writable", ["chmod"]),
        (disk(kind="tmpfs"), "store-in-memory", ["peer.store"]),
        (disk(fault="Permission denied"), "store-unseen", ["as root"]),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_fault_of_the_stores_disk(facts: DiskFacts, code: str, words: list[str]) -> None:
    assert only(judge_disk(facts, CacheSettings(), up()), *words) == code


def test_what_the_daemon_says_of_its_store_counts() -> None:
    node = NodeAnswer("127.0.0.1:5082", CHECKUP, Status("Input/output error", []))
    assert only(judge_disk(DISK, CacheSettings(), node), STORE) == "store-failing"


@pytest.mark.parametrize(
    ("used", "most", "code", "level"),
    [
        (100, 1024, "descriptors-few", "warning"),
        (40, 256, "descriptors-few", "error"),
        (1000, 1024, "descriptors-used", "error"),
    ],
)
def test_too_few_descriptors(used: int, most: int, code: str, level: str) -> None:
    found = judge_descriptors(up(descriptors=used, max_descriptors=most))
    assert (only(found, "LimitNOFILE", "--ulimit"), found[0].level) == (code, level)


def test_enough_descriptors_are_well_and_a_daemon_that_is_down_does_not_tell() -> None:
    assert well(judge_descriptors(up()))
    assert only(judge_descriptors(DOWN), "Start the daemon") == "descriptors-unseen"


# --- use ------------------------------------------------------------------------------------------------------------


def test_a_mirror_that_is_asked_and_a_swarm_that_gives_are_well() -> None:
    assert well(judge_use([Use("docker", 30.0)], up()))
    assert well(judge_use([], up(received={"peer": 0, "origin": 0})))
    assert well(judge_use([Use("containerd", None)], up(uptime=60.0, askers=[]))), "it has just begun"


def test_the_doctors_own_questions_are_nobodys_pulls() -> None:
    node = up(askers=[Asker("shoal-doctor", 1.0, 9), Asker("", 1.0, 1)])
    found = judge_use([Use("docker", None)], node)
    assert only(found, "docker") == "mirror-never-asked"
    assert "shoal-doctor" not in found[0].text


@pytest.mark.parametrize(
    ("use", "level"),
    [(Use("containerd", None), "warning"), (Use("containerd", 60.0), "error"), (Use("containerd", 9000.0), "warning")],
)
def test_a_mirror_that_is_configured_and_never_asked(use: Use, level: str) -> None:
    found = judge_use([use], up())
    code = only(found, "systemctl restart containerd", "shoal config containerd --check")
    assert (code, found[0].level) == ("mirror-never-asked", level)
    assert "docker/28.2.2" in found[0].text


@pytest.mark.parametrize(
    ("runtime", "word"), [("docker", "systemctl reload docker"), ("podman", "Nothing"), ("rke2", "rke2-server")]
)
def test_what_makes_a_runtime_read_its_files_again_is_what_it_needs(runtime: str, word: str) -> None:
    assert only(judge_use([Use(runtime, None)], up(askers=[])), word) == "mirror-never-asked"


def test_much_that_comes_from_origins_alone_is_told_where_there_are_others() -> None:
    received = {"peer": 0, "origin": GIB}
    assert only(judge_use([], up(received=received)), "neighbours") == "swarm-unused"
    assert well(judge_use([], up(received=received, neighbours=0, probe=None)))


def test_the_last_pull_is_told_with_its_verdict() -> None:
    own = PullState("docker.io/library/a:1", "shoal-doctor", 1, "It took 1 s.")
    good = PullState("docker.io/library/b:1", "docker/28.2.2", 0, "It took 2 s.")
    bad = PullState("docker.io/library/c:1", "docker/28.2.2", 2, "It took 3 s. Two requests failed.")
    found = judge_use([], NodeAnswer("", CHECKUP, STATUS, (own, good, bad)))
    assert well(found)
    assert "docker.io/library/b:1. It took 2 s." in found[-1].text
    found = judge_use([], NodeAnswer("", CHECKUP, STATUS, (bad, good)))
    assert only(found, "shoal explain docker.io/library/c:1") == "last-pull-failed"


def test_an_image_is_given_stale_or_refused() -> None:
    assert well(judge_image(ImageAnswer("docker.io/library/alpine:3", "sha256:1")))
    stale = ImageAnswer("docker.io/library/alpine:3", "sha256:1", '299 - "the origin is silent"')
    assert only(judge_image(stale), "origin") == "image-stale"
    refused = ImageAnswer("quay.io/a/b:1", fault="status 403")
    assert only(judge_image(refused), "proxy.upstreams", "docker login") == "image-refused"


def test_without_the_daemon_nobody_knows_of_use() -> None:
    assert only(judge_use([], DOWN), "Start the daemon") == "use-unseen"
