"""A running supernode against `docs/supernode-api.yaml`: what it is asked for preheats it answers as described."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shoal.operator import OperatorToken
from tests.compatibility.conftest import ALL
from tests.world.nodes import Supernode

DESCRIPTION = Path(__file__).parents[2] / "docs/supernode-api.yaml"
EXAMPLES = 300 if ALL else 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

schema = schemathesis.openapi.from_path(DESCRIPTION).include(
    path_regex="preheats|schedules|webhooks|notifications|health|session"
)


@pytest.fixture(scope="module")
def supernode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supernode]:
    with ExitStack() as stack:
        supernode = Supernode(tmp_path_factory.mktemp("api"))
        supernode.settings["SHOAL_SUPERNODE__PREHEAT__PUSHES__REGISTRIES"] = '{"*": "docker.io"}'
        supernode.start(stack)
        yield supernode


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=not ALL, suppress_health_check=list(HealthCheck))
def test_a_supernode_answers_as_described(case: Case[Any], supernode: Supernode) -> None:
    token = OperatorToken(supernode.folder / "state" / "operator-token").read()
    url = f"http://127.0.0.1:{supernode.operations_port}"
    case.call_and_validate(base_url=url, checks=CHECKS, headers={"Authorization": f"Bearer {token}"})


def test_the_description_is_served_where_it_is_of(supernode: Supernode) -> None:
    url = f"http://127.0.0.1:{supernode.operations_port}"
    with urllib.request.urlopen(f"{url}/v1/openapi.yaml") as answer:
        assert answer.read().decode() == DESCRIPTION.read_text()
    with urllib.request.urlopen(f"{url}/v1/docs") as answer:
        assert "/v1/preheats" in answer.read().decode()


def test_no_request_left_a_traceback(supernode: Supernode) -> None:
    """Runs behind the others."""
    assert "Traceback" not in supernode.log
