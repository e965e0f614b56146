"""The program's counters: traffic, drops, remarks, contests, sessions. Nothing here changes the data path."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from controller.node.kernel.maps import Map
from controller.node.kernel.program import SOURCE
from controller.node.plane.model import Contest, Traffic
from sfc.chain import Side

_TUNNEL = 0
"""A slot that no link has (bpf/cross_connect.c, `count_tunnel`)."""


class Counters:
    """Reads the maps anew at every call; every method raises DatapathError."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._traffic, self._drops, self._contests = maps["traffic"], maps["drops"], maps["contests"]
        self._links, self._holdings = maps["links"], maps["holdings"]

    def traffic(self, slots: Collection[int]) -> dict[int, Traffic]:
        """By slot, since the slot was given out."""
        return {slot: Traffic(*self._traffic.get((slot,))) for slot in slots}

    def tunnel(self) -> Traffic:
        """All frames of the tunnel: packets and bytes."""
        return Traffic(*self._traffic.get((_TUNNEL,)))

    def drops(self) -> dict[tuple[int, str], int]:
        """Frames dropped, by (connection number, verdict); connection 0: from a link that is not wired."""
        return self._frames(verdicts(dropped=True))

    def remarks(self) -> dict[tuple[int, str], int]:
        """Frames that were carried although something was amiss, by (connection number, verdict)."""
        dropped = verdicts(dropped=True)
        return self._frames({number: name for number, name in verdicts().items() if number not in dropped})

    def _frames(self, names: Mapping[int, str]) -> dict[tuple[int, str], int]:
        counts = {key: count for key, (count,) in self._drops.items()}
        return {(number, names[verdict]): n for (number, verdict), n in counts.items() if verdict in names}

    def contests(self) -> dict[Contest, int]:
        """How often a link claimed a session of another one while both served: with the latest such other one. Links
        that have left are in none."""
        links = [entry for _, entry in self._links.items()]
        found = {}
        for (latter,), (end, count) in self._contests.items():
            former = end >> 32 & (len(links) - 1)
            (ifindex, connection, side, *_), (other, *where) = links[latter], links[former][:3]
            if count and ifindex and (end & 0xFFFFFFFF, connection, side) == (other, *where):
                found[Contest(connection, Side(side), former, latter)] = count
        return found

    def remembered(self) -> int:
        """Sessions in the tables, active or not."""
        return sum(places for places, _ in self._holdings.values())

    def evicted(self) -> dict[int, int]:
        """By connection number: sessions that had proved themselves, were not closed, and had to give way."""
        return {number: evicted for (number,), (_, evicted) in self._holdings.items() if evicted}


def verdicts(dropped: bool = False) -> dict[int, str]:
    """Number → name of each verdict, or of those for frames dropped, as bpf/verdicts.h spells them."""
    wanted = r"/\* dropped" if dropped else ""
    found = re.findall(rf"\bVERDICT_(\w+) = (\d+),\s*{wanted}", (SOURCE / "verdicts.h").read_text())
    return {int(number): name.lower() for name, number in found}
