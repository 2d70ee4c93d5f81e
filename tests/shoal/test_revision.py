"""What of a configuration that was read again is taken over, and what is said of it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli.configuration import Configuration
from shoal.daemonsettings import LogSettings
from shoal.fields import LIVE, is_live
from shoal.revision import revise
from shoal.settings import SettingsError, load


class Inner(msgspec.Struct, frozen=True):
    live: Annotated[int, LIVE] = 0
    fixed: int = 0


class Place(msgspec.Struct, frozen=True):
    url: str = ""
    password: str = ""


class Whole(msgspec.Struct, frozen=True):
    inner: Inner = Inner()
    places: Annotated[dict[str, Place], LIVE] = {}
    table: Annotated[Inner, LIVE] = Inner()
    fixed: str = ""

    def __post_init__(self) -> None:
        if self.fixed and self.fixed not in self.places:
            raise ValueError(f"`fixed` {self.fixed!r} is no place")


def test_what_is_live_holds_and_the_rest_waits() -> None:
    revision = revise(Whole(), Whole(inner=Inner(1, 2)))
    assert revision.settings == Whole(inner=Inner(1, 0))
    assert revision.applied == ["inner.live"]
    assert revision.needs_restart == ["inner.fixed"]


def test_what_waits_is_said_again_as_long_as_it_does() -> None:
    read = Whole(inner=Inner(1, 2))
    again = revise(revise(Whole(), read).settings, read)
    assert (again.applied, again.needs_restart) == ([], ["inner.fixed"])
    back = revise(again.settings, Whole(inner=Inner(1, 0)))
    assert (back.applied, back.needs_restart) == ([], [])


def test_all_of_a_table_that_is_live_is_live_and_each_key_is_named() -> None:
    before = Whole(places={"a.example": Place("x"), "gone": Place()})
    revision = revise(before, Whole(places={"a.example": Place("x", "secret"), "new": Place()}, table=Inner(0, 3)))
    assert revision.settings.places.keys() == {"a.example", "new"}
    assert revision.applied == ['places."a.example".password', "places.gone", "places.new", "table.fixed"]
    assert "secret" not in " ".join(revision.applied)


def test_what_is_live_and_does_not_go_with_what_waits_is_refused() -> None:
    before = Whole(places={"a": Place()}, fixed="a")
    with pytest.raises(SettingsError, match=r"'a' is no place.*wait for a restart.*fixed"):
        revise(before, Whole(places={"b": Place()}, fixed="b"))


@given(*[st.builds(Inner, st.integers(0, 2), st.integers(0, 2))] * 2)
def test_every_key_that_differs_is_named_once(before: Inner, after: Inner) -> None:
    revision = revise(before, after)
    differing = {name for name in ("live", "fixed") if getattr(before, name) != getattr(after, name)}
    assert sorted([*revision.applied, *revision.needs_restart]) == sorted(differing)
    assert revision.settings == Inner(after.live, before.fixed)


def test_a_configuration_that_is_the_same_changes_nothing() -> None:
    read = load(Configuration, None, {})
    revision = revise(read, load(Configuration, None, {}))
    assert (revision.settings, revision.applied, revision.needs_restart) == (read, [], [])


def test_settings_say_by_their_types_whether_they_are_live() -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(LogSettings)}
    assert all(map(is_live, fields.values()))
    whole = {field.name: field.type for field in msgspec.structs.fields(Configuration)}
    assert not any(map(is_live, whole.values()))
