"""All that a store holds, hashed anew: at rest, or by the daemon that has it open."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from peer.store import Store
from proxy.orders import VERIFY_PATH
from shoal.cli.keeping import with_progress
from shoal.cli.options import Invocation
from shoal.cli.orders import ask
from shoal.cli.progress import bars

_POLL_SECONDS = 0.3


def verified(store: Store) -> dict[str, Any]:
    """Hash a store at rest; in the form of `proxy.verification`."""
    sizes = store.unverified() | dict(store.digests())
    found = dict(with_progress("hashing", sizes, store.recheck(), store.verify()))
    return {
        "running": False,
        "blobs": len(sizes),
        "checked": len(found),
        "bytes": sum(sizes.values()),
        "checked_bytes": sum(sizes.get(digest, 0) for digest in found),
        "wrong": [digest for digest, right in found.items() if not right],
        "mended": [],
        "error": "",
    }


def verified_by_daemon(invocation: Invocation) -> dict[str, Any]:
    answer = ask(invocation, "POST", VERIFY_PATH)
    with bars(Console(stderr=True)) as shown:
        task = shown.add_task("hashing", total=answer["bytes"])
        while answer["running"]:
            time.sleep(_POLL_SECONDS)
            answer = ask(invocation, "GET", VERIFY_PATH)
            shown.update(task, completed=answer["checked_bytes"], total=answer["bytes"])
    return answer
