"""`shoal config ca`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, upstream_option

if TYPE_CHECKING:
    from proxy.certificates import AuthorityFiles, CertificateAuthority
    from proxy.settings import ProxySettings

_PLACES = {
    "docker": "/etc/docker/certs.d/{host}/ca.crt",
    "containerd": "/etc/containerd/certs.d/{host}/ca.crt",
    "podman": "/etc/containers/certs.d/{host}/ca.crt",
}
"""Where clients look for authorities that they trust for one registry; containerd is told of it by `ca` in the
`hosts.toml` beside it."""

_SYSTEM = "/usr/local/share/ca-certificates/shoal.crt, then update-ca-certificates"
"""For all programs of a machine; docker asks Docker Hub's registry with these alone."""


@click.command(cls=Command, examples=["shoal config ca > shoal-ca.crt", "shoal config ca --json"])
@general_options
@upstream_option
@json_option
@click.pass_obj
def ca(invocation: Invocation, as_json: bool) -> None:
    """Show the certificate authority of forward-proxy mode, as PEM.

    It is made where there is none. Clients that have the proxy as HTTPS_PROXY have to trust it. It is good for ten
    years; to renew it, move both of its files away, run this again, and give clients the new certificate before the
    daemon starts again.
    """
    from proxy.certificates import AuthorityFiles
    from proxy.errors import AuthorityUnusable

    settings = invocation.configuration({"log": {"level": "warning"}}).proxy
    files = AuthorityFiles(settings.tunnel.ca)
    try:
        authority = files.open()
    except AuthorityUnusable as error:
        raise click.ClickException(str(error)) from None
    click.echo(_described(files, authority, settings) if as_json else authority.pem, nl=as_json)


def _described(files: AuthorityFiles, authority: CertificateAuthority, settings: ProxySettings) -> str:
    from proxy.destinations import Destinations

    hosts = Destinations(settings.tunnel, settings.upstreams).opened_hosts
    fields = {
        "path": str(files.certificate),
        "fingerprint": authority.fingerprint,
        "expires": authority.expires.isoformat(),
        "hosts": hosts,
        "trust": {
            **{client: [place.format(host=host) for host in hosts] for client, place in _PLACES.items()},
            "system": _SYSTEM,
        },
    }
    return json.dumps(fields)
