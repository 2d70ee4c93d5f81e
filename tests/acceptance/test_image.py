"""The container image, built from a Debian of this machine's own instead of the base that a registry would give."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.daemons import ask, free_ports
from tests.world.debian import debian_root
from tests.world.programs import require, require_root, run

pytestmark = pytest.mark.timeout(400)
_ROOT = Path(__file__).parents[2]
_BASE, _IMAGE = "localhost/shoal-test-base", "localhost/shoal-test"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
"""As elf.h numbers them."""
_USER = 65532
_SECRET = "of one test of the image"


class Podman:
    """podman with a storage of its own, which goes with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = [f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}", "--runtime=runc"]

    def __call__(self, *words: str | Path) -> str:
        return run("podman", *self._options, *words)

    def load(self, name: str, root: Path) -> None:
        """Take a root filesystem as an image."""
        pack = subprocess.Popen(["tar", "--create", f"--directory={root}", "."], stdout=subprocess.PIPE)
        with pack:
            take = ["podman", *self._options, "import", "-", name]
            subprocess.run(take, stdin=pack.stdout, check=True, capture_output=True)

    def build(self, name: str, machine: str) -> None:
        """Build the image for a sort of machine, as a site without internet does: pip has the wheels in a folder."""
        wheels, config = self._folder / f"wheels-{machine}", self._folder / "pip.conf"
        python = run("/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        for lock in ("runtime.lock", "build.lock"):
            download_wheels(lock, machine, python, wheels)
        config.write_text("[global]\nno-index = true\nfind-links = /wheelhouse\n")
        given = [f"--volume={wheels}:/wheelhouse:ro", f"--volume={config}:/etc/pip.conf:ro"]
        says = [f"BASE={_BASE}", "VERSION=1.2.3", "REVISION=0123abc", f"TARGETARCH={_ARCHITECTURES[machine]}"]
        how = ["--isolation=chroot", "--network=host", "--pull=never", *(f"--build-arg={each}" for each in says)]
        own = f"--platform=linux/{_ARCHITECTURES[platform.machine()]}"
        file = _ROOT / "deploy/container/Dockerfile"
        self("build", own, *how, *given, "--file", file, "--tag", name, _ROOT)

    def runs(self, *words: str | Path, name: str = "") -> str:
        """Start a container as Kubernetes would with the chart; waits for its end where it has no name."""
        how = ["--detach", f"--name={name}", "--log-driver=k8s-file"] if name else ["--rm"]
        # root in a sandbox may not raise limits, as podman would
        limits = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]
        walls = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host"]
        return self("run", "--pull=never", *how, *limits, *walls, *words)


def test_the_linter_finds_nothing_wrong() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("no hadolint for this machine")
    assert run(linter, _ROOT / "deploy/container/Dockerfile") == ""


def download_wheels(lock: str, machine: str, python: str, folder: Path) -> None:
    """What a lock names, for a sort of machine and a version of Python; fails where it does not come as wheels."""
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={python}", f"--dest={folder}", *platforms]
    run(*command, "--requirement", _ROOT / "deploy" / lock)


@pytest.mark.parametrize("machine", _ARCHITECTURES)
def test_all_that_is_needed_comes_as_wheels_for_a_machine(machine: str, tmp_path: Path) -> None:
    """For the version of Python that the image has when nobody says otherwise."""
    text = (_ROOT / "deploy/container/Dockerfile").read_text()
    download_wheels("runtime.lock", machine, text.partition("python:")[2].partition("-slim")[0], tmp_path)
    assert len(list(tmp_path.glob("*.whl"))) > 20


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """With the image in it."""
    require_root()
    require("podman", "runc")
    podman = Podman(tmp_path_factory.mktemp("podman"))
    try:
        podman.load(_BASE, debian_root())
        podman.build(_IMAGE, platform.machine())
        yield podman
    finally:
        podman("rm", "--all", "--force", "--time=0")
        podman("rmi", "--all", "--force")


def test_the_image_says_what_it_is(podman: Podman) -> None:
    (described,) = json.loads(podman("image", "inspect", _IMAGE))
    assert described["Config"]["User"] == f"{_USER}:{_USER}"
    assert described["Config"]["Entrypoint"] == ["shoal"]
    labels = described["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert described["Architecture"] == _ARCHITECTURES[platform.machine()]


def test_the_image_adds_little_to_its_base(podman: Podman) -> None:
    (base,), (image,) = (json.loads(podman("image", "inspect", name)) for name in (_BASE, _IMAGE))
    assert image["Size"] - base["Size"] < 90e6


def test_no_program_that_builds_things_is_left(podman: Podman) -> None:
    script = (
        "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'pytest', 'bench') if u.find_spec(n)])"
    )
    assert podman.runs("--entrypoint=python3", _IMAGE, "-c", script) == "[]\n"


def test_the_image_shows_help_as_a_user_without_rights(podman: Podman) -> None:
    assert "Usage: shoal" in podman.runs(_IMAGE, "--help")
    status = podman.runs("--entrypoint=cat", _IMAGE, "/proc/self/status")
    assert f"\nUid:\t{_USER}\t{_USER}\t{_USER}\t{_USER}\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status


def test_the_image_for_another_machine_is_made_without_one(podman: Podman) -> None:
    (other,) = _ARCHITECTURES.keys() - {platform.machine()}
    podman.build(f"{_IMAGE}-{other}", other)
    script = (
        "import pathlib, struct; "
        "print({struct.unpack_from('<H', p.read_bytes(), 18)[0] for p in pathlib.Path('/opt/shoal').rglob('*.so')})"
    )
    assert podman.runs("--entrypoint=python3", f"{_IMAGE}-{other}", "-c", script) == f"{{{_ELF_MACHINES[other]}}}\n"


def test_a_supernode_and_a_peer_run_in_it(podman: Podman, stack: ExitStack) -> None:
    peers, leader, peer, mirror, operations = free_ports(5)
    settings = {
        "SHOAL_CLUSTER__SECRET": _SECRET,
        "SHOAL_SUPERNODE__PORT": peers,
        "SHOAL_SUPERNODE__OPERATIONS__PORT": leader,
        "SHOAL_PEER__SUPERNODE": f"http://127.0.0.1:{peers}",
        "SHOAL_PEER__PORT": peer,
        "SHOAL_PEER__OPERATIONS__PORT": operations,
        "SHOAL_PROXY__PORT": mirror,
    }
    given = [f"--env={name}={value}" for name, value in settings.items()]
    for command in ("supernode", "peer"):
        store = "/var/lib/shoal" if command == "peer" else "/var/lib/shoal-supernode"
        podman.runs(*given, f"--volume={command}:{store}", _IMAGE, command, name=command)
        stack.callback(podman, "stop", "--time=10", command)
    deadline = time.monotonic() + 30
    while not is_joined(operations):
        assert time.monotonic() < deadline, podman("logs", "peer") + podman("logs", "supernode")
        time.sleep(0.2)
    assert ask(leader, "/readyz")[0] == 200
    assert "connected" in podman("exec", "peer", "shoal", "status")
    podman("stop", "--time=20", "peer")
    (ended,) = json.loads(podman("container", "inspect", "peer"))
    assert ended["State"]["ExitCode"] == 0, "SIGTERM reaches the daemon, and ends it in time"


def is_joined(operations: int) -> bool:
    try:
        status, body = ask(operations, "/metrics")
    except OSError:
        return False
    return status == 200 and "shoal_supernode_connected 1.0" in body
