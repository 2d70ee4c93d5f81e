"""The machines and the versions of Python that the one-file programs are made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from packaging import tags

MACHINES = ("x86_64", "aarch64")
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
_NEWEST_GLIBC, _OLDEST_GLIBC = 28, 17
"""Minor versions of glibc 2 that wheels may ask for: what RHEL 8 and Debian 10 have, and all that came after them."""


@dataclass(frozen=True, slots=True)
class Target:
    """One version of Python on Linux with glibc, on one sort of machine."""

    machine: str
    python: tuple[int, int]

    @property
    def version(self) -> str:
        """As `3.11`."""
        return ".".join(map(str, self.python))

    @property
    def platforms(self) -> list[str]:
        """What wheels for it may be called, the newest first."""
        glibcs = range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)
        names = [f"manylinux_2_{minor}" for minor in glibcs]
        return [f"{name}_{self.machine}" for name in (*names, "manylinux2014", "linux")]

    def describe(self, folder: Path) -> Path:
        """Write what pex calls a complete platform, and return the file."""
        abi = f"cp{self.version.replace('.', '')}"
        fitting = [
            *tags.cpython_tags(self.python, platforms=self.platforms),
            *tags.compatible_tags(self.python, abi, self.platforms),
        ]
        file = folder / f"{self.machine}-{self.version}.json"
        file.write_text(json.dumps({"marker_environment": self._markers(), "compatible_tags": list(map(str, fitting))}))
        return file

    def _markers(self) -> dict[str, str]:
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.version}.0",
            "python_version": self.version,
            "sys_platform": "linux",
        }
