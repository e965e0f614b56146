"""The numbers by which a node's maps know its cross-connections.

The node hands them out, so nobody can choose one. A number stands for one cross-connection as long as a link of it is
on the node. When the last link has left, all that the maps hold under the number is forgotten; only then is the number
free. Numbers are handed out in turn, so that one rests as long as possible before it stands for something else.

Numbers of an earlier version were hashes (`former_number`). Links that have one keep it, so that their sessions go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from sfc.chain import Chain, CrossConnection

NUMBERS = 8192
"""Numbers 1 to NUMBERS - 1 are handed out: twice as many as there can be links, so that those of links that have just
left may rest."""


class Numbered(NamedTuple):
    """What a number stands for."""

    chain_uid: str
    """A chain that is deleted and made again is another one: it shares no session with its predecessor."""
    namespace: str
    connection: str
    """CrossConnection.name."""

    @property
    def path(self) -> str:
        """namespace/name of the CrossConnection"""
        return f"{self.namespace}/{self.connection}"


def numbered(chain: Chain, connection: CrossConnection) -> Numbered:
    """The cross-connection as numbers know it."""
    return Numbered(chain.uid, chain.namespace, connection.name)


@dataclass(frozen=True)
class Numbers:
    """The numbers of the cross-connections that have a link on the node. Not changed once made."""

    of: Mapping[Numbered, int] = field(default_factory=dict)
    last: int = 0
    """The number that was handed out last."""

    @cached_property
    def named(self) -> dict[int, Numbered]:
        """The same by number."""
        return {number: connection for connection, number in self.of.items()}


class Allocation:
    """Finds or hands out the numbers of one plan. It is used up with it."""

    def __init__(self, before: Numbers, observed: Mapping[int, Numbered], on_links: Collection[int]) -> None:
        """`before`: of the plan before. `observed`: what the maps say; it counts for cross-connections that `before`
        does not know. `on_links`: the numbers of the links in the maps. Both are empty when nothing was observed."""
        self._before = before
        self._more: dict[Numbered, int] = {}
        """Those that `before` does not have."""
        for number, connection in sorted(observed.items()):
            if connection not in before.of and number not in before.named:
                self._more.setdefault(connection, number)
        self._known = {*observed, *on_links}
        self._last = before.last or max((number for number in observed if number < NUMBERS), default=0)
        self._former = {*on_links} - observed.keys() - before.named.keys()
        """Numbers that stand for nothing yet: an earlier version made them."""
        self._adopted: dict[int, Numbered] = {}

    @property
    def adopts(self) -> bool:
        """Whether links have numbers of an earlier version. The first cross-connection that asks for one keeps it."""
        return bool(self._former)

    def number(self, chain: Chain, connection: CrossConnection) -> int:
        """The cross-connection's number, from now on if it had none. Raises NumbersExhaustedError."""
        asked = numbered(chain, connection)
        known = self._before.of.get(asked) or self._more.get(asked)
        if known is None:
            known = self._more[asked] = self._adoptable(chain, connection) or self._free()
        return known

    def owner_of_former(self, chain: Chain, connection: CrossConnection) -> Numbered | None:
        """The cross-connection that keeps the number which this one, too, had in an earlier version. None if there is
        no other one."""
        owner = self._adopted.get(former_number(chain.uid, connection)) if self._adopted else None
        return None if owner == numbered(chain, connection) else owner

    def numbers(self, alive: Set[int]) -> Numbers:
        """The numbers of a plan whose links have the numbers `alive`: the same object if nothing has changed."""
        if not self._more and alive >= self._before.named.keys():
            return self._before
        both = {**self._before.of, **self._more}
        return Numbers({connection: number for connection, number in both.items() if number in alive}, self._last)

    def _adoptable(self, chain: Chain, connection: CrossConnection) -> int | None:
        former = former_number(chain.uid, connection) if self._former else 0
        if former not in self._former or former in self._adopted:
            return None
        self._adopted[former] = numbered(chain, connection)
        return former

    def _free(self) -> int:
        taken = self._known | self._before.named.keys() | {*self._more.values()}
        for _ in range(NUMBERS):
            self._last = self._last % (NUMBERS - 1) + 1
            if self._last not in taken:
                return self._last
        raise NumbersExhaustedError(
            f"all {NUMBERS - 1} numbers of cross-connections on this node are in use: see the node agent's log for "
            "numbers that could not be forgotten"
        )


class NumbersExhaustedError(Exception):
    """Every number stands for something. A node has fewer links than numbers, so numbers were not freed."""


def former_number(chain_uid: str, connection: CrossConnection) -> int:
    """The number that earlier versions made of UID and names: 32 bits of a hash."""
    text = f"{chain_uid}/{connection.upstream}/{connection.downstream}"
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") or 1
