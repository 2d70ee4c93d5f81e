"""The whole configuration: one table for each daemon, the logs and the traces."""

from __future__ import annotations

import msgspec

from peer.settings import PeerSettings
from proxy.settings import ProxySettings
from shoal.cluster import ClusterSettings
from shoal.daemonsettings import LogSettings, TracesSettings
from supernode.settings import SupernodeSettings


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the configuration file. Each command reads the tables that it needs; all of them are checked."""

    cluster: ClusterSettings = ClusterSettings()
    supernode: SupernodeSettings = SupernodeSettings()
    peer: PeerSettings = msgspec.field(default_factory=PeerSettings)
    proxy: ProxySettings = msgspec.field(default_factory=ProxySettings)
    log: LogSettings = LogSettings()
    traces: TracesSettings = TracesSettings()

    def __post_init__(self) -> None:
        if self.cluster.uses_tls and self.peer.supernode.startswith("http:"):
            raise ValueError(f"`peer.supernode` {self.peer.supernode!r} has to be https:// with `cluster.cert_file`")
        if self.proxy.tunnel.ca.absolute().is_relative_to(self.peer.store.absolute()):
            raise ValueError(f"`proxy.tunnel.ca` {str(self.proxy.tunnel.ca)!r} must not lie in the store")
