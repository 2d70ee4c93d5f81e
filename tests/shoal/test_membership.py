"""The cluster's secret and certificates: what is taken, what is refused without being shown, what is read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shoal.cli.configuration import Configuration
from shoal.cluster import ClusterSettings, Exposed
from shoal.membership import Membership, MembershipUnusable
from shoal.settings import SettingsError, load
from shoal.toml import dump
from tests.world.certificates import Authority

GOOD = "3f2b-8c1d-77aa-0e94"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"secret": "short"}, "secret"),
        ({"secret": "aaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "secret"),
        ({"secret": GOOD, "secret_file": "x"}, "`secret` and `secret_file`"),
        ({"secret": GOOD, "cert_file": "a", "key_file": "b", "ca_file": "c"}, "`secret` and `cert_file`"),
        ({"secret": GOOD, "insecure": "true"}, "`insecure` and `secret`"),
        ({"cert_file": "a", "ca_file": "c"}, "`key_file` missing"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_shown(keys: dict[str, str], named: str) -> None:
    environment = {f"SHOAL_CLUSTER__{key.upper()}": value for key, value in keys.items()}
    with pytest.raises(SettingsError) as error:
        load(Configuration, None, environment)
    assert named in str(error.value)
    assert keys.get("secret", GOOD) not in str(error.value)


def test_a_secret_is_not_printed() -> None:
    assert GOOD not in dump(ClusterSettings(secret=GOOD))


def test_only_loopback_is_listened_at_without_a_way_to_know_members() -> None:
    ClusterSettings().check_host("peer.host", "127.0.0.1")
    ClusterSettings(insecure=True).check_host("peer.host", "0.0.0.0")
    ClusterSettings(secret=GOOD).check_host("peer.host", "::")
    for host in ("0.0.0.0", "::", "10.0.0.1", "node.example"):
        with pytest.raises(Exposed) as error:
            ClusterSettings().check_host("peer.host", host)
        assert "peer.host" in str(error.value)
        assert "secret_file" in str(error.value)
        assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [b"", b"\n \n", b"short\n", f"{GOOD}\naaaaaaaaaaaaaaaaaaaaaaaa\n".encode(), b"\xff" * 20, b"x" * 100_000, None],
)
def test_a_file_without_good_secrets_is_refused_by_name(text: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(MembershipUnusable) as error:
        Membership(ClusterSettings(secret_file=str(file)))
    assert "`cluster.secret_file`" in str(error.value)
    assert str(file) in str(error.value)
    assert GOOD not in str(error.value)


async def test_secrets_are_read_again_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"  {GOOD}\n")
    membership = Membership(ClusterSettings(secret_file=str(file)))
    (first,) = membership.keys
    file.write_text(f"another-{GOOD}\n{GOOD}\n")
    await membership.refresh()
    assert len(membership.keys) == 2
    assert membership.keys[1] == first
    before = membership.keys
    for bad in ("short", None):
        file.unlink() if bad is None else file.write_text(bad)
        with capture_logs() as logs:
            await membership.refresh()
            await membership.refresh()
        assert [entry["event"] for entry in logs] == ["cluster.files_unusable"]
        assert membership.keys == before


async def test_certificates_are_read_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.members("one.test"), authority.issue("two.test")
    membership = Membership(one)
    before = membership.tls
    Path(one.cert_file).write_bytes(two.certificate_file.read_bytes())
    with capture_logs() as logs:
        await membership.refresh()
    assert [entry["event"] for entry in logs] == ["cluster.files_unusable"], "the key is not that certificate's yet"
    assert membership.tls is before
    Path(one.key_file).write_bytes(two.key_file.read_bytes())
    await membership.refresh()
    assert membership.tls is not before


@pytest.mark.parametrize("broken", ["cert_file", "key_file", "ca_file"])
def test_certificates_that_cannot_be_used_are_named(broken: str, tmp_path: Path) -> None:
    settings = Authority(tmp_path).members("one.test")
    Path(getattr(settings, broken)).write_text("no PEM")
    with pytest.raises(MembershipUnusable, match=broken):
        Membership(settings)
