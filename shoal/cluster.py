"""The cluster's part of the configuration: by what its members know each other."""

from __future__ import annotations

import msgspec

from shoal.fields import is_loopback

MIN_SECRET_LENGTH, MIN_SECRET_VARIETY = 16, 6
"""Characters of a secret, and different ones among them: fewer are found by trying."""


class Exposed(ValueError):
    """A daemon would listen for other machines, and nothing would keep strangers out."""


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for supernodes and peers: a secret that all of them share, or certificates of one authority."""

    secret: str = ""
    """What members prove to each other that they know; it is never sent. At least 16 characters."""

    secret_file: str = ""
    """A file of such secrets, one a line, instead: the first one is used, each is accepted. Read again when it
    changes, so that a secret can be replaced node by node."""

    cert_file: str = ""
    """This node's certificate (PEM): everything between members goes through TLS 1.3. Read again when it changes, as
    are the next two."""

    key_file: str = ""
    """The key of that certificate (PEM)."""

    ca_file: str = ""
    """The authority (PEM) whose certificates make members: one for the cluster alone."""

    insecure: bool = False
    """Whether daemons may listen for other machines without any of this: whoever reaches them is a member then."""

    def __post_init__(self) -> None:
        files = {"cert_file": self.cert_file, "key_file": self.key_file, "ca_file": self.ca_file}
        missing = [f"`{key}`" for key, file in files.items() if not file]
        if 0 < len(missing) < len(files):
            raise ValueError(f"`cert_file`, `key_file` and `ca_file` belong together ({' and '.join(missing)} missing)")
        ways = [key for key in ("secret", "secret_file", "cert_file") if getattr(self, key)]
        if len(ways) > 1:
            raise ValueError(" and ".join(f"`{key}`" for key in ways) + " exclude each other")
        if ways and self.insecure:
            raise ValueError(f"`insecure` and `{ways[0]}` exclude each other")
        if self.secret:
            check_secret("`secret`", self.secret)

    @property
    def is_open(self) -> bool:
        """Whether everybody is taken for a member."""
        return not (self.secret or self.secret_file or self.cert_file)

    @property
    def uses_tls(self) -> bool:
        """Whether members know each other by certificates."""
        return bool(self.cert_file)

    def check_host(self, key: str, host: str) -> None:
        """Raises `Exposed` where a daemon must not listen at `host`, which `key` of the configuration names."""
        if self.is_open and not self.insecure and not is_loopback(host):
            raise Exposed(
                f"`{key}` {host!r} is reached from other machines, and nothing keeps strangers out of the cluster.\n"
                "Set `cluster.secret_file` (--secret-file) to a file with the same secret on all nodes "
                "(openssl rand -hex 32), or `cluster.cert_file`, `key_file` and `ca_file`; "
                "`cluster.insecure = true` (--insecure) allows it as it is."
            )


def check_secret(name: str, secret: str) -> None:
    """Raises `ValueError`, which does not show it, where a secret is too easily found."""
    if len(secret) < MIN_SECRET_LENGTH or len(set(secret)) < MIN_SECRET_VARIETY:
        raise ValueError(
            f"{name} is too easily found (allowed: at least {MIN_SECRET_LENGTH} characters, "
            f"{MIN_SECRET_VARIETY} different ones; openssl rand -hex 32 makes a good one)"
        )
