"""What people can do something about becomes one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from peer.disk import StoreError
from proxy.admission import RulesUnusable
from proxy.errors import AuthorityUnusable
from proxy.settings import CredentialsUnreadable
from shoal.cli.exits import BadConfiguration
from shoal.cli.image import PullFailed
from shoal.cluster import Exposed
from shoal.membership import MembershipUnusable
from shoal.porttls import CertificateUnusable
from shoal.traces import TracesUnavailable


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Errors of daemons and pulls inside become `click.ClickException`."""
    try:
        yield
    except (OSError, StoreError, PullFailed, AuthorityUnusable) as error:
        raise click.ClickException(str(error)) from None
    except (
        CertificateUnusable,
        CredentialsUnreadable,
        Exposed,
        MembershipUnusable,
        RulesUnusable,
        TracesUnavailable,
    ) as error:
        raise BadConfiguration(str(error)) from None
