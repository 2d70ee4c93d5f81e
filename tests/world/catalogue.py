"""What is known from the start in tests of the front end that are not about who may read what."""

from __future__ import annotations

from proxy.catalogue import Catalogue
from proxy.identity import ANONYMOUS
from shoal.reference import Location

OPEN = [
    Location.parse("docker.io", "busybox"),
    Location.parse("docker.io", "a"),
    Location.parse("docker.io", "library/liar"),
    Location.parse("quay.io", "a/b"),
    Location.parse("quay.io", "good/thing"),
]
"""Repositories of which it is known that everybody may read them."""


def open_catalogue() -> Catalogue:
    """A catalogue that says that everybody may read `OPEN`, and forgets everything else."""
    catalogue = Catalogue(None)
    catalogue.grants = [(location, ANONYMOUS.key) for location in OPEN]
    return catalogue
