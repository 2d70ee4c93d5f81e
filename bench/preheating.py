"""What a client's pull loses by a preheat of another image that runs beside it, in simulated time."""

from __future__ import annotations

import click

from bench.options import json_option
from bench.result import Check, Result, Series, publish
from bench.simulation import AT, LATENCY, PEER_TICK, QUEUE, TRACKER_TICK, Peer, Simulation
from shoal.descriptor import BlobKey
from shoal.digest import Digest

_BAR = 1.15
_MBIT = 125_000
_SIZE, _LAYERS = 100_000_000, 5
"""Of the image that is pulled."""
_PREHEATED_LAYERS = 50
"""Of the image that is preheated, each as large as those of the other one."""
_BEGINS = 5.0
"""Seconds after the preheat at which the pull begins."""


class PullBesidePreheat(Simulation):
    """The first `pullers` of the peers pull an image; before that all have begun to preheat another one."""

    def __init__(self, peers: int, pullers: int, rate: float, origin_rate: float, seed: int, *, preheats: bool) -> None:
        """Rates in bytes/s. Without `preheats` it is the pull alone."""
        super().__init__(_SIZE, [rate] * peers, origin_rate, seed, layers=_LAYERS)
        self._pullers = list(self._peers.values())[:pullers]
        count = _PREHEATED_LAYERS if preheats else 0
        self._preheated = [BlobKey(Digest.of(b"preheated %d" % layer), _SIZE // _LAYERS) for layer in range(count)]

    def seconds(self) -> float:
        """From the moment at which clients ask, until the last of them has its image."""
        for peer in self._peers.values():
            self._join_tracker(peer)
            peer.machine.open([(blob, 0, {}) for blob in self._preheated], AT, 0.0, preheats=True)
            self._act(peer)
            self.later(PEER_TICK * (1 + self._rng.random()), self._peer_tick, peer)
        self.later(TRACKER_TICK, self._tracker_tick)
        self.later(_BEGINS, self._pull)
        while not all(self._has_image(peer) for peer in self._pullers):
            self.step()
        return self.now - _BEGINS

    def _pull(self) -> None:
        for peer in self._pullers:
            peer.machine.open([(blob, 0, {}) for blob in self._blobs], AT, self.now)
            peer.unread = list(self._blobs)
            self._read_on(peer)
            self._act(peer)

    def _has_image(self, peer: Peer) -> bool:
        return all(blob in peer.library.blobs for blob in self._blobs)


def beside(peers: int, pullers: int, rate: float, origin_rate: float, seed: int) -> float:
    """How many times as long a pull takes beside a preheat as alone."""
    took = [
        PullBesidePreheat(peers, pullers, rate, origin_rate, seed, preheats=preheats).seconds()
        for preheats in (True, False)
    ]
    return took[0] / took[1]


@click.command()
@click.option("--peers", default=16, show_default=True, help="Nodes, all of which preheat.")
@click.option("--rate", default=50.0, show_default=True, help="Mbit/s of each link.")
@click.option("--runs", default=3, show_default=True, help="Seeds of each.")
@json_option
def command(peers: int, rate: float, runs: int, as_json: bool) -> None:
    """A pull of 100 MB that begins 5 s after a preheat of 1 GB on all nodes, against the pull alone."""
    full = rate * _MBIT
    series: dict[str, dict[str, Series]] = {}
    worst = 0.0
    for pullers in (1, peers // 4, peers):
        for links in (1, 4):
            ratios = [beside(peers, pullers, full, links * full, seed) for seed in range(runs)]
            series[f"{pullers} of {peers} nodes pull, origin of {links} links"] = {
                "beside": Series("x alone", ratios),
            }
            worst = max(worst, *ratios)
    check = Check("ratio", worst, _BAR, True, "the slowest pull beside a preheat over the pull alone")
    setting = {"pulled, bytes": _SIZE, "link, bytes/s": full, "latency, s": LATENCY, "longest queue, s": QUEUE}
    publish(Result("preheating", "A pull beside a preheat, simulated", [check], series, [], None, setting), as_json)
