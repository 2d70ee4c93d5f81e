"""Which limits hold, and by whose word. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from shoal.changes import OrderRefused
from shoal.limits import NO_LIMITS, LimitOrder, LimitSettings, Traffic


class Word(StrEnum):
    """By whose word a limit holds."""

    ORDER = "order"
    """An operator, until the daemon restarts or reads its configuration again."""
    CONFIGURATION = "configuration"
    """The daemon's own configuration."""
    CLUSTER = "cluster"
    """The supernode, for all nodes that say nothing themselves."""
    NOBODY = "nobody"


class LimitBook:
    """An operator's order goes before the daemon's configuration, and that before what the supernode says. A supernode
    has one too, of what it says.

    Rates are in bytes per second, 0 for no limit.
    """

    def __init__(self, configured: LimitSettings, apply: Callable[[Traffic, float], None]) -> None:
        """`apply` is told of each limit that changes, and of all that there are at first."""
        self._apply = apply
        self._configured = configured
        self._cluster = NO_LIMITS
        self._orders: dict[Traffic, float] = {}
        self._preheats = 0.0
        self._applied: dict[Traffic, float] = dict.fromkeys(Traffic, 0.0)
        self._adjust()

    def configure(self, configured: LimitSettings) -> None:
        """The configuration was read again: it counts, and orders do not any more."""
        self._configured = configured
        self._orders.clear()
        self._adjust()

    def told(self, cluster: LimitSettings) -> None:
        """The supernode says what is to hold where nodes say nothing."""
        self._cluster = cluster
        self._adjust()

    def order(self, traffic: Traffic, rate: float | None) -> None:
        """An operator wants this limit, or None: what would hold without an order."""
        if rate is None:
            self._orders.pop(traffic, None)
        else:
            self._orders[traffic] = rate
        self._adjust()

    def preheats(self, rate: float) -> None:
        """The preheats that run are to take no more than this, or than the limit that holds; 0: as much as that."""
        self._preheats = rate
        self._adjust()

    def holding(self, traffic: Traffic) -> tuple[float, Word]:
        """The limit that holds, and by whose word."""
        words = (
            (self._orders.get(traffic), Word.ORDER),
            (self._configured.of(traffic), Word.CONFIGURATION),
            (self._cluster.of(traffic), Word.CLUSTER),
        )
        return next(((rate, word) for rate, word in words if rate is not None), (0.0, Word.NOBODY))

    @property
    def said(self) -> LimitSettings:
        """The limits of which anybody has said something."""
        holding = {traffic: self.holding(traffic) for traffic in Traffic}
        return LimitSettings(**{each: rate for each, (rate, word) in holding.items() if word is not Word.NOBODY})

    async def obey(self, order: LimitOrder) -> dict[str, object]:
        """`order`, as people write it; returns `shown`. Raises `OrderRefused` for what is no limit."""
        try:
            rate = order.bytes_per_second
        except ValueError as error:
            raise OrderRefused(str(error)) from None
        self.order(order.traffic, rate)
        return self.shown()

    def shown(self) -> dict[str, object]:
        """All limits, and by whose word they hold, for operators."""
        holding = {traffic: self.holding(traffic) for traffic in Traffic}
        return {
            "limits": {
                traffic.value: {"bytes_per_second": rate, "set_by": word.value}
                for traffic, (rate, word) in holding.items()
            }
        }

    def _adjust(self) -> None:
        for traffic in Traffic:
            rate, _ = self.holding(traffic)
            if traffic is Traffic.PREHEAT and self._preheats:
                rate = min(rate or self._preheats, self._preheats)
            if rate != self._applied[traffic]:
                self._applied[traffic] = rate
                self._apply(traffic, rate)
