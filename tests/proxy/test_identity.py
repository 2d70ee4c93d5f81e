from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidAuthorization
from proxy.identity import (
    ANONYMOUS,
    MAX_AUTHORIZATION,
    Identity,
    basic,
    claimed_name,
    client_identity,
    node_identity,
    node_token_identity,
)

ALICE = basic("alice", "secret")


def test_a_name_and_a_password_as_rfc_7617_writes_them() -> None:
    assert basic("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert base64.b64decode(basic("ä", "ö:").removeprefix("Basic ")).decode() == "ä:ö:"


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (ALICE, ALICE),
        (f"basic  {ALICE.removeprefix('Basic ')} ", ALICE),
        ("Bearer abc.def-ghi_jkl~+/==", "Bearer abc.def-ghi_jkl~+/=="),
        ("BEARER abc", "Bearer abc"),
        ("Basic " + base64.b64encode(b":").decode(), "Basic Og=="),
        ("Bearer " + "x" * MAX_AUTHORIZATION, "Bearer " + "x" * MAX_AUTHORIZATION),
    ],
)
def test_what_a_client_sends_is_passed_on_as_it_is(header: str, sent: str) -> None:
    identity = client_identity([header])
    assert identity is not None
    assert (identity.authorization, identity.is_client, identity.is_shared) == (sent, True, False)
    assert identity.is_token == sent.startswith("Bearer ")


def test_who_sends_nothing_is_nobody_in_particular() -> None:
    assert client_identity([]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [ALICE, ALICE],
        [""],
        ["Basic"],
        ["Bearer "],
        ["Basic !!!"],
        ["Basic YWxpY2U="],  # no colon
        ["Digest username=alice"],
        ["Negotiate YWxpY2U6c2VjcmV0"],
        ["Bearer a b"],
        ["Bearer a\tb"],
        ["Bearer a\x7f"],
        ["Bearer ü"],
        ["Bearer \udcff"],
        ["Bearer " + "x" * (MAX_AUTHORIZATION + 1)],
    ],
)
def test_what_no_registry_could_judge_is_refused(headers: list[str]) -> None:
    with pytest.raises(InvalidAuthorization) as caught:
        client_identity(headers)
    assert caught.value.status == 400
    assert not any("YWxpY2U" in str(caught.value) for _ in headers)


@given(st.lists(st.text(max_size=60), max_size=2))
def test_whatever_a_client_sends_makes_no_second_header(headers: list[str]) -> None:
    try:
        identity = client_identity(headers)
    except InvalidAuthorization:
        return
    assert identity is None or (identity.authorization or "").isprintable()


def test_a_name_tells_nothing_of_the_credentials() -> None:
    identity = client_identity([ALICE])
    assert identity is not None
    for shown in (
        identity.key,
        repr(identity),
        repr(node_identity("alice", "secret")),
        repr(node_token_identity("tok")),
    ):
        assert "secret" not in shown
        assert ALICE.removeprefix("Basic ") not in shown
        assert "tok'" not in shown


def test_the_same_credentials_have_the_same_name_and_others_another() -> None:
    names = [client_identity([header]) for header in (ALICE, ALICE, basic("alice", "wrong"), "Bearer x")]
    keys = [identity.key for identity in names if identity is not None]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_no_client_can_pass_for_this_node_or_for_nobody() -> None:
    client, node = client_identity([basic("node:deploy", "x")]), node_identity("deploy", "x")
    assert client is not None
    assert (node.is_shared, node.is_client, ANONYMOUS.is_shared, ANONYMOUS.is_client) == (True, False, False, False)
    assert len({client.key, node.key, ANONYMOUS.key}) == 3


def elsewhere(code: str) -> str:
    """What another process of a node prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def test_the_nodes_own_name_outlives_a_restart_and_a_clients_does_not() -> None:
    code = "import proxy.identity as i; print({}.key)"
    node = Identity(elsewhere(code.format("i.node_token_identity('a' * 40)")), identity_token="a" * 40)
    assert node == node_token_identity("a" * 40)
    client = client_identity([ALICE])
    assert client is not None
    assert elsewhere(code.format(f"i.client_identity([{ALICE!r}])")) != client.key


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"Bearer e30.{body}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([], None),
        ([basic("alice", "secret")], "alice"),
        ([basic("ghp_secret", "")], None),
        ([basic("with\nbreak", "secret")], None),
        ([basic("a" * 200, "secret")], None),
        ([token(sub="alice")], "alice"),
        ([token(sub="")], None),
        ([token(sub=7)], None),
        ([token(iss="registry")], None),
        (["Bearer opaque-token-of-a-registry"], None),
        (["Bearer a.b.c"], None),
        (["Bearer a.é.c"], None),
        (["Negotiate abc"], None),
        ([basic("alice", "secret"), basic("bob", "secret")], None),
    ],
)
def test_a_name_is_shown_and_nothing_that_proves_it(headers: list[str], name: str | None) -> None:
    assert claimed_name(headers) == name
