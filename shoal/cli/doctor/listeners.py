"""Which program listens at a port of this machine."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal.redaction import redacted

_PROC = Path("/proc")
_LISTENING = "0A"
"""The state in `/proc/net/tcp` (proc(5))."""
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that listens; `pid` is 0 where this user may not see whose socket it is."""

    pid: int
    program: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})" if self.pid else "another program"


def listener_at(host: str, port: int) -> Listener | None:
    """Who listens at a TCP port of an address, or of all addresses; None where nobody does."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _inodes(name, host, port)}
    if not inodes:
        return None
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and _holds(folder, inodes):
            return Listener(int(folder.name), _name(folder))
    return Listener(0, "")


def overlap(one: str, other: str) -> bool:
    """Whether a port cannot be listened at by two, at these hosts. A name may be any address."""
    try:
        addresses = [ipaddress.ip_address(host) for host in (one, other)]
    except ValueError:
        return True
    return any(address.is_unspecified for address in addresses) or addresses[0] == addresses[1]


def _inodes(name: str, host: str, port: int) -> Iterator[str]:
    try:
        lines = (_PROC / "net" / name).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        address, _, number = fields[1].partition(":")
        if fields[3] == _LISTENING and int(number, 16) == port and overlap(str(_parsed(address)), host):
            yield fields[9]


def _parsed(text: str) -> _Address:
    """An address as the kernel prints it: words of four bytes, each in this machine's order."""
    raw = bytes.fromhex(text)
    words = [raw[start : start + 4] for start in range(0, len(raw), 4)]
    return ipaddress.ip_address(b"".join(words if sys.byteorder == "big" else [word[::-1] for word in words]))


def _holds(folder: Path, inodes: set[str]) -> bool:
    try:
        files = list((folder / "fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return False
    return any(_inode(file) in inodes for file in files)


def _inode(file: Path) -> str:
    """Of the socket that a descriptor is; empty where it is none, or closed meanwhile."""
    try:
        found = _SOCKET.fullmatch(str(file.readlink()))
    except OSError:
        return ""
    return found[1] if found else ""


def _name(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return "?"
    return redacted(b" ".join(words).decode(errors="replace").strip())
