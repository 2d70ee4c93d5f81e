"""Whether the store takes what comes: said once when it ceases to, and once when it does again."""

from __future__ import annotations

import structlog

from peer.disk import OutOfDescriptors, StoreFull, StoreTooSmall
from peer.metrics import PeerMetrics

log = structlog.get_logger()


_REASONS = {StoreFull: "full", StoreTooSmall: "large", OutOfDescriptors: "crowded"}


class StoreCondition:
    """What the last writes have shown. A node whose store takes nothing serves on: every blob passes by."""

    def __init__(self, metrics: PeerMetrics) -> None:
        self._metrics = metrics
        self.fault = ""
        """What the store failed with last; empty as long as it works."""
        metrics.writable.set_function(lambda: float(not self.fault))

    def failed(self, error: Exception) -> None:
        """The store has not taken a blob, or cannot give back what it took of it."""
        reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "failing")
        self._metrics.passed.labels(reason).inc()
        if reason in {"large", "crowded"}:
            return
        if not self.fault:
            log.error("store.not_writable", error=str(error), effect="blobs are passed on without being kept")
        self.fault = str(error) or repr(error)

    def works(self) -> None:
        """The store has taken a whole blob."""
        if self.fault:
            log.info("store.writable")
            self.fault = ""
