"""Waits until each node has taken back what its runtime was told: python3 wait.py HOST PORT SECONDS.

A pod that is done listens on PORT; HOST stands for all of them. Kubernetes is not asked which nodes there are, so that
no rights are needed: it is the end when the pods have been the same for a while, and all of them listen.
"""

import socket
import sys
import time

SETTLED_SECONDS = 20.0


def addresses(host: str, port: int) -> set[str]:
    """The addresses of all pods that there are by now."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return set()


def listens(address: str, port: int) -> bool:
    """Whether a pod is done."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def main(host: str, port: int, seconds: float) -> None:
    """Ends with a line on standard error where it took too long."""
    deadline = time.monotonic() + seconds
    known: set[str] = set()
    since = time.monotonic()
    missing: set[str] = set()
    while time.monotonic() < deadline:
        found = addresses(host, port)
        if found != known:
            known, since = found, time.monotonic()
        missing = {address for address in found if not listens(address, port)}
        if found and not missing and time.monotonic() - since >= SETTLED_SECONDS:
            print(f"{len(found)} nodes have taken it back.")
            return
        time.sleep(1)
    if not known:
        sys.exit(f"After {seconds:g} s no pod is there. Nodes keep a mirror that nobody answers for, and pull past it.")
    sys.exit(
        f"After {seconds:g} s {len(missing)} of {len(known)} pods are not done: {', '.join(sorted(missing))}. "
        "Their nodes keep a mirror that nobody answers for, and pull past it."
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
