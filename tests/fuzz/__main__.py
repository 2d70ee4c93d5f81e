"""The long form: every target gets its share of a million inputs, made by Atheris (libFuzzer), which keeps and changes
those that reach code that no other has reached.

    python -m tests.fuzz [--json] [--seed N] [--keep] [TARGET ...]
    python -m tests.fuzz --replay FILE TARGET

What is found lies in `.cache/fuzz/`: logs, and inputs that show a fault, each of which `--replay` tries again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from shoal.daemonsettings import LogSettings
from shoal.logs import set_up
from tests.fuzz.target import CORPUS, Target

WORK = Path(".cache/fuzz")
_PACKAGES = ["shoal", "supernode", "peer", "proxy"]
_INPUT_SECONDS = 20
"""After so long an input counts as one that hangs."""
_MEMORY_MIB = 1024
_SHARED_MEMORY = Path("/dev/shm")
"""Where files of targets are, if it is there: they are made and removed some thousand times a second."""

_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_COVERED = re.compile(r"^#\d+\s.*\bcov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What one target's run came to."""

    target: str
    inputs: int
    seconds: float
    edges: int
    features: int
    """Edges with how often they were taken, as libFuzzer counts."""
    kept: int
    """Inputs in the repository."""
    faults: list[str]
    """Files with inputs that show a fault."""

    @property
    def inputs_per_second(self) -> float:
        return round(self.inputs / self.seconds, 1)


def main() -> int:
    """Returns the process's exit status: 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, where none is named")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reaches new code")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try this input once")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args()
    if known.child:
        name, *files = known.targets
        fuzz(name, [*files, *rest])
    arguments = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    chosen = [TARGETS[name] for name in arguments.targets] or list(TARGETS.values())
    if arguments.replay is not None:
        for target in chosen:
            target(arguments.replay.read_bytes())
        return 0
    return run_all(chosen, arguments.seed, keep=arguments.keep, as_json=arguments.json)


def run_all(targets: list[Target], seed: int, *, keep: bool, as_json: bool) -> int:
    """Fuzz these targets, one on each processor, those that take longest first."""
    began = time.monotonic()
    progress = sys.stderr if as_json else sys.stdout
    print(f"seed {seed}", file=progress)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ordered = sorted(targets, key=lambda target: target.pumped)
        for outcome in pool.map(lambda target: _run(target, seed, keep=keep), ordered):
            outcomes.append(outcome)
            print(
                f"{outcome.target:16} {outcome.inputs:8,} inputs {outcome.inputs_per_second:9,.0f}/s "
                f"{outcome.edges:6} edges {outcome.kept:4} kept {' '.join(outcome.faults)}",
                file=progress,
                flush=True,
            )
    inputs, seconds = sum(each.inputs for each in outcomes), time.monotonic() - began
    faults = [fault for each in outcomes for fault in each.faults]
    print(f"{inputs:,} inputs in {seconds:.0f} s, {inputs / seconds:,.0f}/s, faults: {len(faults)}", file=progress)
    if as_json:
        rows = [asdict(each) | {"inputs_per_second": each.inputs_per_second} for each in outcomes]
        print(
            json.dumps({"seed": seed, "inputs": inputs, "seconds": round(seconds), "faults": faults, "targets": rows})
        )
    return 1 if faults else 0


def _run(target: Target, seed: int, *, keep: bool) -> Outcome:
    found, kept, faults = WORK / "found" / target.name, CORPUS / target.name, WORK / "faults" / target.name
    for folder in (found, kept, faults):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(faults.iterdir())
    began = time.monotonic()
    log = _libfuzzer(
        target,
        f"-runs={target.inputs}",
        f"-seed={seed}",
        f"-max_len={target.limit}",
        "-len_control=0",
        "-keep_seed=1",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={faults}/",
        "-print_final_stats=1",
        str(found),
        str(kept),
    )
    seconds = time.monotonic() - began
    if keep:
        _libfuzzer(target, "-merge=1", "-use_counters=0", f"-max_len={target.limit}", str(kept), str(found))
    executed, covered = _EXECUTED.search(log), _COVERED.findall(log)
    edges, features, _ = map(int, covered[-1]) if covered else (0, 0, 0)
    shown = sorted(str(file) for file in set(faults.iterdir()) - before)
    if executed is None and not shown:
        shown = [str(WORK / f"{target.name}.log")]
    inputs = int(executed[1]) if executed else 0
    return Outcome(target.name, inputs, seconds, edges, features, len(target.kept()), shown)


def _libfuzzer(target: Target, *options: str) -> str:
    """Run libFuzzer over a target in a process of its own, which it never leaves otherwise; returns its output."""
    command = [sys.executable, "-m", "tests.fuzz", "--child", target.name, *options]
    temporary = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    log = WORK / f"{target.name}.log"
    with log.open("wb") as output:
        environment = os.environ | {"TMPDIR": str(temporary)}
        subprocess.run(command, stdout=output, stderr=output, env=environment, check=False)
    return log.read_text(errors="replace")


def fuzz(name: str, options: list[str]) -> None:
    """What the child does; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=_PACKAGES):
        from tests.fuzz.targets import TARGETS
    set_up(LogSettings(), stream=open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    program = f"{sys.executable} -m tests.fuzz --child {name}"  # a merge starts it again, by a shell
    atheris.Setup([program, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
