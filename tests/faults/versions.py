"""The version before this one in one swarm with this one."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from tests.faults.members import LOOPBACK, push_layers
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB

BEFORE = "a2014e5749fafcfbad99f2fae886efa878187e94"
"""The last commit of the version before."""
_PROJECT = Path(__file__).parents[2]
_FOLDER = _PROJECT / ".cache" / f"version-{BEFORE[:8]}"


def _version_before() -> Path | None:
    """A folder with the packages of its wheel, made once; None where its commit is not here, as in a shallow clone.

    What it depends on is what this version depends on too.
    """
    if _FOLDER.exists():
        return _FOLDER
    archived = subprocess.run(["git", "-C", str(_PROJECT), "archive", BEFORE], capture_output=True)
    if archived.returncode != 0:
        return None
    _FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_FOLDER.parent) as folder:
        source, target = Path(folder) / "source", Path(folder) / "packages"
        with tarfile.open(fileobj=BytesIO(archived.stdout)) as archive:
            archive.extractall(source, filter="data")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)], check=True)
        target.rename(_FOLDER)
    return _FOLDER


@fault(LOOPBACK)
def version_before_is_in_the_swarm(run: Run) -> None:
    """As a node, or as the supernode: each version gets the image, from the other one as well."""
    packages = _version_before()
    if packages is None:
        run.note(f"not driven: commit {BEFORE[:8]} is not in this clone")
        push_layers(run)
        return
    nodes, members = run.world.nodes, run.world.members
    place = run.rng.randrange(len(nodes))
    is_node = run.rng.random() < 0.6
    old, part = (members[place], nodes[place]) if is_node else (run.world.tracker, run.world.supernode)
    usual, operations = part.settings, run.world.supernode.operations
    part.settings = usual | {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    if not is_node:  # which had no operations port
        run.world.supernode.operations = {}
    old.end()
    try:
        old.start()
        run.world.wait_until_joined()
        push_layers(run, 2 * MIB, 5 * MIB)
        if run.rng.random() < 0.5:
            run.pull(nodes[place])
            run.wait()
        run.pull()
        run.wait()
        run.note(f"{old.name} is of the version before")
    finally:
        part.settings, run.world.supernode.operations = usual, operations
        old.end()
        old.start()
        run.world.wait_until_joined()
