"""How much has to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.watermarks import Usage, Watermarks

MARKS = Watermarks(high=800, low=700, free=100, disk=1000)


def test_between_the_watermarks_nothing_goes() -> None:
    assert MARKS.surplus(Usage(stored=800, lacking=0, free=200), 0) == 0


def test_above_the_high_one_all_above_the_low_one_goes() -> None:
    assert MARKS.surplus(Usage(stored=801, lacking=0, free=199), 0) == 101
    assert MARKS.surplus(Usage(stored=780, lacking=0, free=220), 40) == 120


def test_others_who_fill_the_disk_cost_the_store_its_blobs() -> None:
    assert MARKS.surplus(Usage(stored=300, lacking=0, free=90), 0) == 35


def test_what_is_being_written_counts_as_written() -> None:
    usage = Usage(stored=300, lacking=150, free=300)
    assert MARKS.have_room(usage, 50)
    assert not MARKS.have_room(usage, 51)


def test_what_is_too_large_never_fits() -> None:
    assert MARKS.fit(800)
    assert not MARKS.fit(801)
    assert not Watermarks(high=1000, low=1000, free=100, disk=1000).fit(901)


sizes = st.integers(0, 2000)


@given(sizes, sizes, sizes, sizes, sizes, sizes)
def test_removing_the_surplus_makes_room(stored: int, lacking: int, free: int, size: int, high: int, low: int) -> None:
    marks = Watermarks(high, min(low, high), 100, 4000)
    usage = Usage(stored, lacking, free)
    surplus = marks.surplus(usage, size)
    assert (surplus == 0) == marks.have_room(usage, size)
    if size <= marks.low:
        assert marks.have_room(usage.after(surplus), size)
    assert marks.above_low(usage.after(marks.above_low(usage))) == 0
