"""What a supernode shows of its cluster, while nodes pull and afterwards."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from bench.daemons import ask
from tests.cli.tree import run
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path, start_nodes

MIB = 1 << 20


DESCRIPTION = yaml.safe_load((Path(__file__).parents[2] / "docs/supernode-api.yaml").read_text())


def seen(supernode: Supernode, path: str) -> Any:
    """A picture, which is what the description of the API says of this path."""
    status, text = ask(supernode.operations_port, path)
    assert status == 200, text
    picture = json.loads(text)
    check(path, picture)
    return picture


def check(path: str, picture: Any) -> None:
    kind = path.split("/")[2]
    described = next(
        each for each in DESCRIPTION["paths"] if each.split("/")[2] == kind and each.count("/") == path.count("/")
    )
    content = DESCRIPTION["paths"][described]["get"]["responses"]["200"]["content"]["application/json"]
    schema = content["schema"] | {"components": DESCRIPTION["components"]}
    jsonschema.validate(picture, schema, jsonschema.Draft202012Validator)


def test_a_swarm_is_seen_while_it_moves_and_the_sums_are_right_afterwards(
    origin: ScriptedOrigin,
    supernode: Supernode,
    tmp_path: Path,
    stack: ExitStack,
    pool: ThreadPoolExecutor,
    capsys: pytest.CaptureFixture[str],
    logs_as_before: None,
) -> None:
    layer = random_bytes(6 * MIB, "seen")
    digest = origin.push(layer)
    blob = next(each for each, content in origin.contents.items() if content is layer)
    origin.total_rate = 2.5 * MIB
    supernode.start(stack)
    nodes = start_nodes(2, origin.start(stack), supernode, tmp_path, stack)
    for node in nodes:
        get(node, f"/v2/{REPOSITORY}/manifests/latest")
    pulls = [pool.submit(get, node, blob_path(blob)) for node in nodes]

    swarm: dict[str, Any] = {}

    def moves() -> bool:
        status, text = ask(supernode.operations_port, f"/v1/swarms/{blob}")
        swarm.clear()
        swarm.update(json.loads(text))
        return status == 200 and {bool(each["from_origin"]) for each in swarm["transfers"]} == {True, False}

    wait_until(moves, "transfers from the origin and between the nodes are seen")
    check("/v1/swarms/digest", swarm)
    assert swarm["interval_seconds"] == 1.0
    assert {lease["registry"] for lease in swarm["leases"]} <= {UPSTREAM}
    ids = {node["peer"] for node in seen(supernode, "/v1/nodes")["nodes"]}
    assert {member["peer"] for member in swarm["members"]} == ids
    for member in swarm["members"]:
        pieces = int.from_bytes(base64.b64decode(member["have"]), "little")
        assert pieces.bit_count() == member["pieces_there"] <= swarm["pieces"]
    for transfer in swarm["transfers"]:
        assert transfer["rate"] > 0
        assert transfer["from_peer"] in ids or transfer["from_origin"] == UPSTREAM
    assert all(pull.result().brings(layer) for pull in pulls)

    def told() -> bool:
        totals = seen(supernode, "/v1/cluster")["totals"]
        return bool(totals["served"] >= 2 * len(layer) and totals["peers_out"] >= totals["peers_in"])

    wait_until(told, "the nodes have reported what they gave, to clients and to each other")
    cluster = seen(supernode, "/v1/cluster")
    totals = cluster["totals"]
    assert totals["served"] == totals["served_store"] + totals["served_peers"] + totals["served_origin"]
    assert len(layer) <= totals["origin_in"] <= sum(origin.sent.values())
    assert totals["origin_in"] + totals["peers_in"] >= 2 * len(layer)
    assert cluster["saved_bytes"] == totals["served"] - totals["origin_in"] > 0.9 * len(layer)
    assert 0.4 < cluster["hit_ratio"] < 0.6
    assert cluster["nodes"]["reporting"] == 2
    (registry,) = cluster["origins"]
    assert (registry["registry"], registry["bytes"]) == (UPSTREAM, totals["origin_in"])

    (image,) = seen(supernode, "/v1/images")["images"]
    assert (image["digest"], image["names"]) == (digest, [f"{UPSTREAM}/{REPOSITORY}:latest"])
    shown = seen(supernode, f"/v1/images/{digest}")
    assert [part["digest"] for part in shown["parts"]][1:] == [blob]
    assert shown["parts"][1]["nodes_complete"] == 2
    assert len(shown["nodes"]) == 2
    assert blob in {each["digest"] for each in seen(supernode, "/v1/swarms")["swarms"]}
    node = seen(supernode, f"/v1/nodes/{next(iter(ids))}")
    assert [each["digest"] for each in node["images"]] == [digest]

    where = ["--supernode-operations", f"127.0.0.1:{supernode.operations_port}", "--token-file", str(tmp_path / "no")]
    shown = run(capsys, ["status", "--cluster", *where])
    assert shown.code == 0
    assert f"{UPSTREAM}  0 of 8" in shown.out
    assert shown.out.count(f":{nodes[0].peer_port}") == 1
    assert run(capsys, ["status", "--cluster", "--json", *where]).told["totals"] == totals
    local = run(capsys, ["status", "--operations", f"127.0.0.1:{nodes[0].operations_port}"])
    assert f"connected to http://127.0.0.1:{supernode.port}; neighbours: 1" in local.out
