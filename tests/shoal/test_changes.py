"""Who may change a running node over its operations port, and what is noted of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from proxy.orders import ImageOrder
from shoal.audit import Audit
from shoal.changes import Changes
from shoal.operator import OperatorToken

TOKEN = "a-token-that-is-as-long-as-a-token-has-to-be"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
WRONG = {"Authorization": "Bearer another-token-that-is-as-long-as-a-token-has-to-be"}
ORDER = {"image": "quay.io/team/app:1"}
ELSEWHERE = "192.0.2.7"
FROM = "X-From"
"""A header with the address that a test's request pretends to come from."""


@dataclass
class Operations:
    """An operations port with one change and one thing to see."""

    client: TestClient[web.Request, web.Application]
    token: OperatorToken
    audit: Audit
    log: Path
    carried_out: list[str] = field(default_factory=list)
    now: float = 1000.0

    async def change(self, headers: dict[str, str], order: object = ORDER, remote: str = "") -> ClientResponse:
        return await self.client.post("/change", json=order, headers=headers | ({FROM: remote} if remote else {}))

    async def lines(self) -> list[dict[str, Any]]:
        await self.audit.flush()
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@web.middleware
async def pretending(request: web.Request, handler: Any) -> Any:
    return await handler(request.clone(remote=request.headers[FROM]) if FROM in request.headers else request)


@pytest.fixture
async def operations(tmp_path: Path) -> AsyncIterator[Operations]:
    token, log = OperatorToken(tmp_path / "token"), tmp_path / "audit.log"
    token.path.write_text(TOKEN)
    async with Audit(log) as audit:
        changes = Changes(token, audit, lambda: made.now)
        of_a_cluster = Changes(token, audit, lambda: made.now, from_elsewhere=True)

        async def carry_out(order: ImageOrder) -> dict[str, object]:
            made.carried_out.append(str(order.reference))
            if made.carried_out[-1].endswith(":broken"):
                raise RuntimeError("a fault")
            return {"removed": ["a", "b"], "bytes": 7}

        app = web.Application(middlewares=[pretending], client_max_size=1 << 16)
        app.router.add_post("/change", changes.change("rm", ImageOrder, carry_out))
        app.router.add_post("/lead", of_a_cluster.change("rm", ImageOrder, carry_out))
        app.router.add_get("/look", changes.look(lambda: {"state": "good"}))
        async with TestClient(TestServer(app)) as client:
            made = Operations(client, token, audit, log)
            yield made


async def test_who_bears_the_token_changes_the_node_and_is_noted(operations: Operations) -> None:
    answer = await operations.change(RIGHT)
    assert (answer.status, await answer.json()) == (200, {"removed": ["a", "b"], "bytes": 7})
    assert operations.carried_out == ["quay.io/team/app:1"]
    (line,) = await operations.lines()
    assert line.pop("time")
    assert line == {
        "client": "127.0.0.1",
        "action": "rm",
        "image": "quay.io/team/app:1",
        "bytes": 7,
        "status": 200,
        "seconds": 0.0,
    }


@pytest.mark.parametrize("headers", [{}, WRONG, {"Authorization": f"Basic {TOKEN}"}])
async def test_on_the_node_itself_nobody_else_does(operations: Operations, headers: dict[str, str]) -> None:
    answer = await operations.change(headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert operations.carried_out == []
    (line,) = await operations.lines()
    assert (line["action"], line["status"]) == ("rm", 401)


async def test_the_token_changes_nothing_from_another_machine(operations: Operations) -> None:
    assert (await operations.change(RIGHT, remote=ELSEWHERE)).status == 403
    assert operations.carried_out == []


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_every_form_of_loopback_is_this_machine(operations: Operations, remote: str) -> None:
    assert (await operations.change(RIGHT, remote=remote)).status == 200


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (WRONG, 401), (RIGHT, 200)])
async def test_a_cluster_is_led_from_other_machines_by_the_token_alone(
    operations: Operations, headers: dict[str, str], status: int
) -> None:
    answer = await operations.client.post("/lead", json=ORDER, headers=headers | {FROM: ELSEWHERE})
    assert answer.status == status
    assert len(operations.carried_out) == (status == 200)


@pytest.mark.parametrize(
    ("remote", "headers", "status"),
    [("127.0.0.1", {}, 200), (ELSEWHERE, {}, 401), (ELSEWHERE, WRONG, 401), (ELSEWHERE, RIGHT, 200)],
)
async def test_the_state_is_for_this_machine_and_for_the_token(
    operations: Operations, remote: str, headers: dict[str, str], status: int
) -> None:
    answer = await operations.client.get("/look", headers=headers | {FROM: remote})
    assert answer.status == status
    assert ("state" in await answer.json()) is (status == 200)


async def test_wrong_tokens_are_bounded_and_keep_nobody_out(operations: Operations) -> None:
    with capture_logs() as logs:
        statuses = [(await operations.change(WRONG)).status for _ in range(30)]
    assert statuses == [401] * 10 + [429] * 20
    assert len([entry for entry in logs if entry["event"] == "operations.refused"]) == 10
    assert len(await operations.lines()) == 10
    assert (await operations.change(RIGHT)).status == 200
    operations.now += 11
    assert (await operations.change(WRONG)).status == 401
    assert TOKEN not in str(logs)


async def test_without_a_readable_token_nothing_is_changed(operations: Operations) -> None:
    operations.token.path.unlink()
    assert (await operations.change(RIGHT)).status == 401
    operations.token.path.write_text("")
    assert (await operations.change({"Authorization": "Bearer "})).status == 401
    assert operations.carried_out == []


@pytest.mark.parametrize("order", [{}, {"image": 3}, {"image": "not an image"}, [], "text"])
async def test_an_order_that_cannot_be_read_is_the_clients_error(operations: Operations, order: object) -> None:
    answer = await operations.change(RIGHT, order)
    assert answer.status == 400
    assert "error" in await answer.json()


async def test_a_change_that_fails_is_noted_too(operations: Operations) -> None:
    assert (await operations.change(RIGHT, {"image": "quay.io/team/app:broken"})).status == 500
    (line,) = await operations.lines()
    assert (line["status"], line["image"]) == (500, "quay.io/team/app:broken")


async def test_an_order_that_is_too_large_is_refused_and_noted(operations: Operations) -> None:
    assert (await operations.change(RIGHT, {"image": "a" * (1 << 18)})).status == 413
    assert [line["status"] for line in await operations.lines()] == [413]
