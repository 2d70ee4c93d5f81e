"""How many members of a swarm have each piece."""

from __future__ import annotations

from shoal.pieces import PieceSet


class PieceCounts:
    """Counts of all pieces at once: bit `i` of plane `k` is bit `k` of the count of piece `i`.

    To count a set of pieces in or out takes a few operations on integers, however many members there are.
    """

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        self._planes: list[PieceSet] = []

    def add(self, pieces: PieceSet) -> None:
        """One member more has these pieces."""
        planes = self._planes
        for place, plane in enumerate(planes):
            planes[place] = plane ^ pieces
            pieces &= plane  # what carries into the next plane
            if not pieces:
                return
        if pieces:
            planes.append(pieces)

    def remove(self, pieces: PieceSet) -> None:
        """One of the members that had these pieces does not have them any more."""
        planes = self._planes
        for place, plane in enumerate(planes):
            if not pieces:
                break
            planes[place] = plane ^ pieces
            pieces &= ~plane  # what is borrowed from the next plane
        while planes and not planes[-1]:
            planes.pop()

    @property
    def once(self) -> PieceSet:
        """Pieces that at least one member has."""
        found = 0
        for plane in self._planes:
            found |= plane
        return found

    @property
    def twice(self) -> PieceSet:
        """Pieces that at least two members have."""
        found = 0
        for plane in self._planes[1:]:
            found |= plane
        return found
