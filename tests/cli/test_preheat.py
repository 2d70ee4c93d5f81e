"""`shoal preheat`: lists of images, what is shown of nodes, and Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner
from rich.console import Console

from shoal.cli import main
from shoal.cli.exits import NoDaemon
from shoal.cli.orders import Operated
from shoal.cli.preheating import Watcher, outcome

IMAGE = "registry.test/base/image:1"


def news(state: str, peer: str, ended: str | None = None, number: int = 0) -> dict[str, Any]:
    image = {"image": IMAGE, "state": state, "arrived": 1, "size": 1, "blobs": 1, "referrers": 0, "digest": "d"}
    run = {"number": number, "node": "a", "peer": peer, "here": True, "images": [{**image, "error": ""}]}
    return {"id": "job", "state": state, "ended": ended, "runs": [run]}


class Supernode:
    """What it was asked, and what it tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *events: dict[str, Any], presses: int = 0) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._events = events
        self._presses = presses
        monkeypatch.setattr(Operated, "ask", lambda _, *asked: self.ask(*asked))
        monkeypatch.setattr(Operated, "events", lambda *_: self._events)

    def ask(self, method: str, path: str, order: Any = None) -> dict[str, Any]:
        for _ in range(self._presses):
            os.kill(os.getpid(), signal.SIGINT)
        self._presses = 0
        self.asked.append((method, path, order))
        return {"id": "job"}


def shoal(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_list_may_be_written_by_any_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    supernode = Supernode(monkeypatch)
    path = tmp_path / "list"
    path.write_bytes(start + b"# bases\r\nalpine:3.20\r\n\r\n  alpine:3.20 # again\r\n" + b"busybox\n" * 2000)
    assert shoal("preheat", "--detach", "--file", str(path)) == (0, "job\n")
    assert supernode.asked[0][2]["images"] == ["docker.io/library/alpine:3.20", "docker.io/library/busybox:latest"]


def test_a_list_that_is_too_long_is_to_be_split(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("".join(f"alpine:{number}\n" for number in range(1001)))
    code, printed = shoal("preheat", "--file", str(path))
    assert (code, "takes 1000 images, and these are 1001: split the list" in printed) == (2, True)


def test_a_node_whose_daemon_is_started_anew_is_counted_once() -> None:
    watcher = Watcher(Console(file=io.StringIO()))
    watcher.show(news("running", "1"))
    watcher.show(last := news("done", "2", "now"))
    assert outcome(watcher.whole(last)) == "preheat job done: 1 of 1 images on 1 nodes are there, verified"


def test_a_node_that_has_gone_is_told() -> None:
    job = news("running", "1")
    job["runs"][0]["here"] = False
    assert f"a (gone): {IMAGE}: running" in outcome(job)
    job["runs"][0]["images"][0]["state"] = "failed"
    assert f"a: {IMAGE}: failed" in outcome(job)


def test_a_node_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too, where brackets could be taken for a style."""
    told = news("running", "1")
    told["runs"][0]["node"] = "[/rack]"
    shown = io.StringIO()
    with Watcher(Console(file=shown, force_terminal=True, width=120)) as watcher:
        watcher.show(told)
    assert "[/rack]" in shown.getvalue()


def test_a_tag_is_no_picture() -> None:
    told = news("done", "1", "now")
    told["runs"][0]["images"][0]["image"] = "docker.io/library/alpine:new"
    shown = io.StringIO()
    Watcher(Console(file=shown)).show(told)
    assert shown.getvalue().startswith("a: docker.io/library/alpine:new: done")


def test_a_supernode_that_is_gone_leaves_the_preheat_to_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> NoReturn:
        raise NoDaemon("no daemon answers")

    Supernode(monkeypatch)
    monkeypatch.setattr(Operated, "events", gone)
    code, printed = shoal("preheat", IMAGE)
    assert (code, "`shoal preheats job` shows it" in printed) == (3, True)


def test_an_order_that_cannot_be_ends_otherwise_than_one_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(400, {"error": "'0' names no nodes"}), (409, {"error": "no node is meant"})]
    monkeypatch.setattr(Operated, "_answer", lambda *_: answers.pop(0))
    assert [shoal("preheat", IMAGE, "--nodes", nodes)[0] for nodes in ("0", "rack=none")] == [2, 1]
    assert shoal("limit", "upload", "1kB/s")[0] == 2


def test_a_list_of_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operated, "ask", lambda *_: {"preheats": []})
    assert shoal("preheats") == (0, "No preheat is known.\n")


def test_ctrl_c_while_it_begins_cancels_it(monkeypatch: pytest.MonkeyPatch) -> None:
    supernode = Supernode(monkeypatch, news("cancelled", "1", "now"), presses=1)
    code, _ = shoal("preheat", IMAGE)
    assert code == 130
    assert [asked[:2] for asked in supernode.asked] == [("POST", "/v1/preheats"), ("DELETE", "/v1/preheats/job")]


def test_a_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    supernode = Supernode(monkeypatch, presses=2)
    assert shoal("preheat", IMAGE)[0] == 130
    assert supernode.asked == []


def test_an_id_is_nothing_but_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    supernode = Supernode(monkeypatch)
    shoal("preheats", "../limits ?x", "--cancel")
    assert supernode.asked[0][:2] == ("DELETE", "/v1/preheats/..%2Flimits%20%3Fx")
