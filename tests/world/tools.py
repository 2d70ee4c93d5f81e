"""Programs that Debian lacks, built from the Go module proxy: each version once on a machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.world.programs import lack

FOLDER = Path(os.environ.get("SHOAL_TOOLS", "")) if "SHOAL_TOOLS" in os.environ else Path.home() / ".cache/shoal-tools"
"""Where they are kept."""


@dataclass(frozen=True)
class Tool:
    """A program of a Go module in one version."""

    name: str
    module: str
    version: str
    package: str = "."
    is_quick: bool = False
    """Whether it is built in some seconds, so that `make test` may."""

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}@{self.version}" / self.name

    def build(self) -> None:
        """Build it inside its own module, whose `go.sum` says what it is made of; nothing where it is there."""
        if self.path.exists():
            return
        source = f"{self.module}@{self.version}"
        said = subprocess.run(["go", "mod", "download", "-json", source], check=True, capture_output=True, text=True)
        target = self.path.with_suffix(f".{os.getpid()}")
        command = ["go", "build", "-C", json.loads(said.stdout)["Dir"], "-p", "2", "-buildvcs=false", "-trimpath"]
        subprocess.run([*command, "-ldflags=-s -w", "-o", str(target), self.package], check=True)
        target.replace(self.path)


COMPARED = (
    Tool("crane", "github.com/google/go-containerregistry", "v0.22.1", "./cmd/crane"),
    Tool("oras", "oras.land/oras", "v1.3.6", "./cmd/oras"),
    Tool("regctl", "github.com/regclient/regclient", "v0.11.7", "./cmd/regctl"),
    Tool("olareg", "github.com/olareg/olareg", "v0.2.2", "./cmd/olareg", is_quick=True),
    Tool(
        "conformance",
        "github.com/opencontainers/distribution-spec/conformance",
        "v0.0.0-20260831232431-97274622c111",
        is_quick=True,
    ),
    Tool("registry", "github.com/distribution/distribution/v3", "v3.1.2", "./cmd/registry"),
    Tool("containerd", "github.com/containerd/containerd/v2", "v2.4.2", "./cmd/containerd"),
    Tool("ctr", "github.com/containerd/containerd/v2", "v2.4.2", "./cmd/ctr"),
    Tool("buildkitd", "github.com/moby/buildkit", "v0.34.2", "./cmd/buildkitd"),
    Tool("buildctl", "github.com/moby/buildkit", "v0.34.2", "./cmd/buildctl"),
)
"""What `docs/compatibility.md` tells of."""

_OTHERS = (
    Tool("crictl", "sigs.k8s.io/cri-tools", "v1.37.0", "./cmd/crictl"),
    Tool("helm", "helm.sh/helm/v4", "v4.3.1", "./cmd/helm"),
    Tool("helm-docs", "github.com/norwoodj/helm-docs", "v1.14.2", "./cmd/helm-docs"),
)
TOOLS = {tool.name: tool for tool in (*COMPARED, *_OTHERS)}


def require_tool(name: str) -> Path:
    """Where it is; builds it first if that takes seconds. Skips the test where it is missing and cannot be had, since
    nothing but Shoal's compatibility is told by it; under SHOAL_COMPATIBILITY=1 fails it."""
    tool = TOOLS[name]
    if not tool.path.exists() and tool.is_quick and shutil.which("go"):
        tool.build()
    if not tool.path.exists():
        reason = f"not built: {name} {tool.version} (`make compatibility` does)"
        if os.environ.get("SHOAL_COMPATIBILITY") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return tool.path


def build_tool(name: str) -> Path:
    """Where it is; builds it first, which may take minutes. Skips or fails the test where there is no Go."""
    tool = TOOLS[name]
    if not tool.path.exists() and shutil.which("go") is None:
        lack(f"not installed: go, which builds {name} {tool.version}")
    tool.build()
    return tool.path


def main() -> None:
    """Build what is missing."""
    for tool in TOOLS.values():
        began = time.monotonic()
        tool.build()
        print(f"{tool.name} {tool.version}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
