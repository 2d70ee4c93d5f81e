"""Everything that a node lets out, while clients sign in, are redirected by signed addresses, and origins fail."""

from __future__ import annotations

import base64
import json
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from bench.daemons import free_ports
from bench.images import write_image
from bench.origin import PROGRAM
from tests.world.certificates import Authority
from tests.world.client import get
from tests.world.front import Fault, Front
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import USERS, Registry
from tests.world.swarm import UPSTREAM
from tests.world.tokens import TokenServer

REPOSITORY = "library/private"
BROKEN = "broken.test:5000"
PROXY_PASSWORD = "password-of-the-way-out"


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_no_secret_comes_out_of_a_node(tmp_path: Path, stack: ExitStack) -> None:
    require(PROGRAM)
    tokens = TokenServer(Authority(tmp_path / "authority"), USERS, {"alice": ["library/*"]})
    tokens.start(stack)
    registry = Registry(tmp_path / "registry", tokens=tokens)
    image = write_image(registry.root, REPOSITORY, [300_000, 400_000])
    registry.start(stack)
    front = Front(registry.url, redirects=True).start(stack)
    audit = tmp_path / "audit.log"
    (closed,) = free_ports(1)
    upstreams = {
        UPSTREAM: {"url": front.url, "retries": 0},
        BROKEN: {
            "url": "http://broken.test",
            "http_proxy": f"http://way:{PROXY_PASSWORD}@127.0.0.1:{closed}",
            "username": "deploy",
            "password": "password-of-the-node",
        },
    }
    settings = {
        "SHOAL_PROXY__UPSTREAMS": json.dumps(upstreams),
        "SHOAL_PROXY__AUDIT": str(audit),
        "SHOAL_PROXY__RIGHTS_FRESHNESS": "0s",
        "SHOAL_PROXY__TAG_FRESHNESS": "0s",
        "SHOAL_LOG__LEVEL": "debug",
    }
    node = Node(tmp_path / "node", {UPSTREAM: front.url}, settings=settings)
    node.start(stack)

    alice, wrong = basic("alice", USERS["alice"]), basic("alice", "wrong-password-of-alice")
    realm = f"{tokens.realm}?service={tokens.service}&scope=repository:{REPOSITORY}:pull"
    with urllib.request.urlopen(urllib.request.Request(realm, headers={"Authorization": alice}), timeout=10) as answer:
        token = json.load(answer)["token"]
    answers: list[bytes] = []

    def ask(path: str, authorization: str, registry: str = "") -> int:
        got = get(
            node, f"/v2/{REPOSITORY}/{path}" + (f"?ns={registry}" if registry else ""), Authorization=authorization
        )
        answers.append(b"" if got.status == 200 else got.body + repr(got.headers).encode())
        return got.status

    paths = ["manifests/latest", *(f"blobs/{digest}" for digest, _ in image.blobs), "tags/list"]
    front.faults["library/"] = Fault(cut=1000, times=1, kinds=("blobs",))
    assert {ask(path, f"Bearer {token}") for path in paths} >= {200}
    front.faults.clear()
    assert {ask(path, alice) for path in paths} == {200}
    assert {ask(path, wrong) for path in paths} <= {401, 403}
    assert {ask(path, alice, BROKEN) for path in paths} == {502}
    tokens.status = 500
    front.faults["library/"] = Fault(status=503)
    answered = [ask(path, authorization) for path in paths for authorization in (alice, wrong, f"Bearer {token}")]
    assert any(status >= 500 for status in answered)
    for endpoint in ("metrics", "v1/status", "readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{node.operations_port}/{endpoint}", timeout=10) as answer:
            answers.append(answer.read())

    assert front.store_seen, "blobs came by signed addresses"
    signatures = [seen.query.partition("=")[2] for seen in front.store_seen]
    secrets = [USERS["alice"], "wrong-password-of-alice", PROXY_PASSWORD, "password-of-the-node", token, *signatures]
    secrets += [header.removeprefix("Basic ") for header in (alice, wrong)]
    secrets += [
        seen.headers["authorization"].rpartition(" ")[2] for seen in front.seen if "authorization" in seen.headers
    ]
    secrets.append((node.folder / "store/operator-token").read_text().strip())
    kept = [file for file in node.folder.rglob("*") if file.is_file() and "blobs" not in file.parts]
    kept = [file for file in kept if file.name != "operator-token"]
    told = b"\n".join([*answers, audit.read_bytes(), *(file.read_bytes() for file in kept)])
    assert [secret for secret in set(secrets) if secret.encode() in told] == []
    assert all("authorization" not in seen.headers for seen in front.store_seen)
    assert b'"user":"alice"' in audit.read_bytes()
