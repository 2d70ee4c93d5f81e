"""What every daemon has in the configuration: how it logs, and where it is operated."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shoal.fields import LIVE, Host, Port

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Annotated[Level, LIVE] = "info"
    """What is less important than this is not logged."""

    format: Annotated[Format, LIVE] = "console"
    """Lines for people, or one JSON object for each line."""


class TracesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of a node. Where they go, the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT` and so on)."""

    enabled: bool = False
    """Record traces of pulls, from a client's request to the pieces of a blob. Needs `pip install 'shoal[traces]'`."""

    upstreams: bool = False
    """Tell upstream registries which trace a request belongs to, by the header `traceparent`."""


class OperationsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the operations endpoints listen."""

    host: Host = "127.0.0.1"
    """Where metrics, health and orders of operators are answered."""

    port: Port = 0
    """0 takes any free port."""

    token_file: str = ""
    """The file with the token of who may make changes. Empty: `operator-token` in `peer.store`, for a supernode in
    `supernode.state`, where the daemon makes one."""

    cert_file: str = ""
    """The certificate of this port with its chain (PEM): it speaks HTTPS alone then, and commands take no other one for
    it. Read again when it changes. Empty: HTTP, by which who overhears the network learns the token that is sent."""

    key_file: str = ""
    """The key of that certificate (PEM), without a password. Only the daemon needs it."""

    def __post_init__(self) -> None:
        if self.key_file and not self.cert_file:
            raise ValueError("`key_file` is of no use without `cert_file`")

    @property
    def uses_tls(self) -> bool:
        """Whether the port speaks HTTPS."""
        return bool(self.cert_file)
