"""The clock: what the supernode and origins take the time for, beside this machine."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from proxy.egress import Egress
from proxy.endpoint import tls_contexts
from proxy.settings import CredentialsUnreadable
from shoal.cli.configuration import Configuration
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding, Level
from shoal.membership import Membership, MembershipUnusable
from shoal.units import format_age
from supernode import protocol

_TIMEOUT = aiohttp.ClientTimeout(total=5.0, sock_connect=2.5)
_WRONG, _WRONG_AT_ALL = 10.0, 60.0
"""Seconds from which on a clock is noticeably wrong, and from which on tokens of registries are refused for it."""
_MAX_ORIGINS = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """Another machine's time less this one's, in seconds."""

    place: str
    offset: float


def judge_clock(readings: list[Reading]) -> list[Finding]:
    """What clocks elsewhere say of this one. `Date` headers have whole seconds."""
    if not readings:
        text = "The clock could not be compared, since neither the supernode nor an origin told the time."
        return [Finding("clock-unseen", "warning", text, "Do what is said of the supernode and the origins.")]
    worst = max(readings, key=lambda reading: abs(reading.offset))
    if abs(worst.offset) < _WRONG:
        return [Finding("clock-right", "ok", f"The clock is that of {', '.join(each.place for each in readings)}.")]
    way = "behind" if worst.offset > 0 else "ahead of"
    agreeing = [each for each in readings if abs(each.offset) < _WRONG]
    if agreeing:
        text = (
            f"The clock of {worst.place} differs from this machine's by {format_age(abs(worst.offset))}, and that of "
            f"{agreeing[0].place} does not."
        )
        remedy = f"Have {worst.place} take the time from a time server (`timedatectl set-ntp true` there)."
        return [Finding("clock-elsewhere", "warning", text, remedy)]
    text = f"This machine's clock is {format_age(abs(worst.offset))} {way} that of {worst.place}."
    remedy = "Have it take the time from a time server: `timedatectl set-ntp true`, or start chronyd or ntpd."
    level: Level = "error" if abs(worst.offset) >= _WRONG_AT_ALL else "warning"
    return [Finding("clock-wrong", level, text, remedy)]


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    configuration = subject.configuration
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        asked = [_supernode(session, subject), *_origins(session, configuration)]
        readings = await asyncio.gather(*asked)
    return judge_clock([reading for reading in readings if reading is not None])


async def _supernode(session: aiohttp.ClientSession, subject: Subject) -> Reading | None:
    url = await subject.supernode()
    if not url:
        return None
    try:
        means = Membership(subject.configuration.cluster).tls
    except MembershipUnusable:
        return None
    tls = True if means is None else means.to_supernode
    return await _read(session, "the supernode", URL(url).with_path(protocol.PATH), tls, None)


def _origins(
    session: aiohttp.ClientSession, configuration: Configuration
) -> list[Coroutine[None, None, Reading | None]]:
    settings = configuration.proxy
    egress = Egress(settings.http_proxy, settings.https_proxy, settings.no_proxy, settings.own_http_proxies)
    asked = []
    for name, upstream in list(settings.upstreams.items())[:_MAX_ORIGINS]:
        try:
            tls, _ = tls_contexts(upstream)
        except CredentialsUnreadable:
            continue
        url = URL(upstream.url).joinpath("v2", "")
        asked.append(_read(session, name, url, tls, egress.proxy_for(url, upstream.http_proxy)))
    return asked


async def _read(
    session: aiohttp.ClientSession, place: str, url: URL, tls: ssl.SSLContext | bool, proxy: URL | None
) -> Reading | None:
    """What a server says that the time is; None where it does not say."""
    began = time.time()
    try:
        async with session.get(url, ssl=tls, proxy=proxy, allow_redirects=False) as response:
            told = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (aiohttp.ClientError, OSError, ValueError, KeyError, OverflowError):
        return None
    now = time.time()
    # it was read somewhere between question and answer, and cut to a whole second
    offset = told + 0.5 - (began + now) / 2
    return Reading(place, offset)
