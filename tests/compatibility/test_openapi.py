"""A running node against `docs/openapi.yaml`: no hostile request makes it fail, and what it answers is described."""

from __future__ import annotations

import json
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
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from bench.images import BenchImage, write_image
from bench.origin import PROGRAM
from tests.compatibility.conftest import ALL
from tests.world.client import get
from tests.world.nodes import Node
from tests.world.programs import require
from tests.world.registries import Registry

DESCRIPTION = Path(__file__).parents[2] / "docs/openapi.yaml"
REPOSITORY = "known"
EXAMPLES = 500 if ALL else 60
"""Requests for each operation; always the same ones where there are few."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]

schema = schemathesis.openapi.from_path(DESCRIPTION)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, BenchImage]]:
    """A node, and an image that its origin has."""
    require(PROGRAM)
    folder = tmp_path_factory.mktemp("openapi")
    with ExitStack() as stack:
        registry = Registry(folder / "registry")
        image = write_image(registry.root, REPOSITORY, [300_000])
        node = Node(folder / "node", {"origin.test:5000": registry.start(stack).url})
        node.start(stack)
        yield node, image


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=not ALL, suppress_health_check=list(HealthCheck))
def test_a_node_answers_as_described(case: Case[Any], known: tuple[Node, BenchImage]) -> None:
    """Requests for what there is among those for what comes to mind."""
    node, image = known
    there = {"name": REPOSITORY, "reference": "latest", "digest": image.blobs[1][0]}
    for name, value in case.path_parameters.items():
        if len(value) % 2:
            case.path_parameters[name] = there[name]
    case.call_and_validate(base_url=node.url, checks=CHECKS)


def test_a_newline_in_a_name_is_answered_in_the_words_of_the_api(known: tuple[Node, BenchImage]) -> None:
    """Which a router's pattern may miss."""
    got = get(known[0], "/v2/a%0Ab/tags/list")
    assert (got.status, json.loads(got.body)["errors"][0]["code"]) == (400, "NAME_INVALID")


def test_no_request_left_a_traceback(known: tuple[Node, BenchImage]) -> None:
    """Runs behind the others."""
    assert "Traceback" not in known[0].log
