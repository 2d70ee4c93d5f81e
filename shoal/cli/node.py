"""One node of the swarm: a store, the engine that fills it, and the proxy that clients talk to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from aiohttp import web
from prometheus_client import CollectorRegistry

from peer.budget import Budget
from peer.contentstore import FOLDER, INDEX, ContentStore
from peer.engine import Engine
from peer.settings import PeerSettings
from peer.store import Store
from proxy.accounts import Accounts
from proxy.administration import Administration
from proxy.catalogue import CATALOGUE, Catalogue
from proxy.checkup import CHECKUP_PATH, Checkups, Particulars
from proxy.keeping import Keeping
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics, certificate_metric
from proxy.preheating import Preheating
from proxy.pulls import Pulls
from proxy.repair import Repair
from proxy.server import ProxyServer
from proxy.settings import ProxySettings
from proxy.state import NodeState
from proxy.upstream import UpstreamClient
from proxy.verification import Verification
from proxy.witness import Witness
from shoal.audit import Audit
from shoal.changes import Changes, not_reloaded
from shoal.cluster import ClusterSettings
from shoal.fields import authority
from shoal.membership import Membership
from shoal.operations import OperationsServer
from shoal.operator import OperatorToken
from shoal.revision import Reload
from shoal.traces import NO_TRACES, Traces
from shoal.version import VERSION
from supernode.client import ControlClient


class Node:
    """A peer and its proxy as an async context manager; leaving it lets running transfers end, and saves the rest."""

    def __init__(
        self,
        peer: PeerSettings,
        proxy: ProxySettings,
        cluster: ClusterSettings,
        metrics: CollectorRegistry,
        reload: Reload = not_reloaded,
        traces: Traces = NO_TRACES,
    ) -> None:
        """Raises `CredentialsUnreadable`, `Exposed` and `MembershipUnusable`."""
        cluster.check_host("peer.host", peer.host)
        self._membership = Membership(cluster)
        self._peer, self._proxy = peer, proxy
        self._configured_at = time.monotonic()
        self._traces = traces
        self._store = Store(peer.store, peer.cache)
        self._content = (
            ContentStore(peer.containerd / FOLDER, peer.store / INDEX) if peer.containerd is not None else None
        )
        self._token = OperatorToken(peer.token_file)
        certificate_metric(self._ends, metrics)
        self._audit = Audit(Path(proxy.audit)) if proxy.audit else None
        budget = Budget.of(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._metrics = proxy_metrics = ProxyMetrics(metrics, proxy.upstreams)
        self._catalogue = Catalogue(peer.store / CATALOGUE)
        self._control = control = (
            ControlClient(peer.supernode, wait=peer.origin_wait, membership=self._membership)
            if peer.supernode
            else None
        )
        board = LimitBoard(proxy_metrics, None if control is None else control.quiet)
        self._upstreams = UpstreamClient(proxy, board, connections=budget.origin_connections, traces=traces)
        if control is not None:
            control.quietened = self._upstreams.quieten
        self.engine = Engine(
            peer, self._store, self._upstreams, control, metrics, budget, self._content, self._membership, traces
        )
        self.proxy = ProxyServer(
            proxy,
            self.engine.supply,
            control,
            self._upstreams,
            self._catalogue,
            proxy_metrics,
            audit=self._audit,
            tally=self.engine.tally,
            pulls=Pulls(self.engine.arrivals.since),
            connections=budget.client_connections,
            traces=traces,
        )
        self._witness: Witness | None = None
        self._preheating: Preheating | None = None
        if control is not None:
            supply, limits = self.engine.supply, self.engine.limits
            self._preheating = Preheating(self.proxy.reader, supply, self._store, control.send, limits.preheats)
            control.preheating = self._preheating.hear
            self._witness = Witness(self.proxy.tags, control)
            control.limited = self.engine.limits.told
            control.refreshed = self.proxy.tags.refreshed
            control.denied = self.proxy.tags.denied
            control.confirming = self._witness.confirm
        changes = Changes(self._token, self._audit)
        self._repair = Repair(self.engine.supply, self._catalogue)
        self.engine.presence.damaged = self._repair.begin
        self._verification = Verification(self.engine.supply, self._repair)
        keeping = Keeping(self._store, self.proxy.tags.last_known, self._catalogue.repositories)
        self.engine.causes.is_quiet = board.is_quiet
        if self.engine.reporting is not None:
            self.engine.reporting.limits = board.last
            self.engine.reporting.images = lambda: asyncio.to_thread(keeping.held, self.proxy.tags.known())
        self._state = NodeState(proxy, self.engine, board, control, peer.supernode, self.proxy.pulls)
        administration = Administration(
            self._state,
            self.proxy.tags,
            changes,
            keeping,
            self._verification,
            self.engine.limits,
            reload,
        )
        checkups = Checkups(
            lambda: self._particulars(self._peer, self._proxy), self.engine, control, self.proxy.clientele
        )
        self.operations = OperationsServer(
            peer.operations,
            metrics,
            {"proxy": lambda: self._serving},
            [
                *administration.routes(),
                *Accounts(self.proxy.pulls, changes).routes(),
                web.get(CHECKUP_PATH, changes.look(checkups.make)),
            ],
        )
        self._serving = False
        self._stack = contextlib.AsyncExitStack()

    async def prepare(self, peer: PeerSettings, proxy: ProxySettings) -> Callable[[], None]:
        """Read what other settings name, and files that have changed; what is live of the settings holds when what is
        returned is called. Raises `CredentialsUnreadable` and `RulesUnusable`."""
        await self._membership.refresh()
        prepared = [self._upstreams.prepare(proxy), self.proxy.prepare(proxy)]

        def take_over() -> None:
            for each in prepared:
                each()
            self._peer, self._proxy = peer, proxy
            self._configured_at = time.monotonic()
            self._metrics.reconfigure(proxy.upstreams)
            if self._control is not None:
                self._control.wait = peer.origin_wait
            self._store.reconfigure(peer.cache)
            self.engine.reconfigure(peer)
            self._state.reconfigure(proxy)

        return take_over

    async def __aenter__(self) -> Self:
        """Raises `StoreError`, and `OSError` where an address is not to be had."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self._traces.close)
            if self._audit is not None:
                await stack.enter_async_context(self._audit)
            await asyncio.to_thread(self._token.make)
            await stack.enter_async_context(self.operations)
            await asyncio.to_thread(self._store.open)
            stack.callback(self._store.close)
            if self._content is not None:
                await asyncio.to_thread(self._content.open)
                stack.callback(self._content.close)
            await stack.enter_async_context(self._membership)
            await stack.enter_async_context(self._catalogue)
            await stack.enter_async_context(self._upstreams)
            await stack.enter_async_context(self.engine)
            stack.push_async_callback(lambda: self.engine.stop(self._peer.shutdown_grace))
            await stack.enter_async_context(self._repair)
            await stack.enter_async_context(self._verification)
            await stack.enter_async_context(self.proxy)
            if self._witness is not None:
                await stack.enter_async_context(self._witness)
            if self._preheating is not None:
                await stack.enter_async_context(self._preheating)
            stack.callback(self._unready)
            self._serving = True
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _particulars(self, peer: PeerSettings, proxy: ProxySettings) -> Particulars:
        return Particulars(
            os.getpid(),
            VERSION,
            str(peer.store.absolute()),
            authority(proxy.host, self.proxy.port),
            authority(peer.host, self.engine.port),
            peer.supernode,
            time.monotonic() - self._configured_at,
        )

    def _ends(self) -> Mapping[str, float]:
        """When certificates end that this node uses, in seconds since the epoch."""
        authority = self.proxy.authority_ends
        return self._membership.ends if authority is None else {**self._membership.ends, "tunnel_authority": authority}

    def _unready(self) -> None:
        self._serving = False
