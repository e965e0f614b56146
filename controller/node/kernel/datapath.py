"""The node's data path: links, targets and neighbours in the maps of the BPF program.

After `open`, everything is map access through file descriptors. The maps are pinned, so an agent that is restarted or
upgraded finds links, targets and sessions as they were; meanwhile the program that the filters hold carries on with the
same maps.

Changes are idempotent: setting the same again changes nothing, clearing something that does not exist succeeds.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import MappingProxyType
from typing import Self

from controller.node.kernel import program
from controller.node.kernel.counters import Counters, verdicts
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.maps import (
    FRAGMENT_PLACES,
    HOLDERS_BYTES,
    LEARNED_PLACES,
    NUMBERED_SIZES,
    Fields,
    Map,
    address_text,
    packed_address,
    packed_text,
    text_of,
)
from controller.node.kernel.peers import Peers
from controller.node.kernel.session_table import ANSWERED, CARRIED, PROVEN, WAS_PROVEN, Programs, SessionTables
from controller.node.kernel.succession import sessions_taken_over
from controller.node.kernel.tcx import Shortcut
from controller.node.plane import maglev
from controller.node.plane.far import PEERS, peer_of
from controller.node.plane.holders import stripped
from controller.node.plane.model import DataPlane, FarLink, LinkEntry, LinkState
from controller.node.plane.numbers import NUMBERS, Numbered
from controller.node.plane.sessions import DEFAULT_PATIENCE, Session
from sfc import mac
from sfc.chain import Patience, SessionKey, Side

PIN_ROOT = Path("/sys/fs/bpf/sfc/v1")
CAPACITY = 262_144
_KEY_KINDS = tuple(SessionKey)
"""By their numbers: enum key_kind in bpf/session.h."""
"""Sessions of each kind (plain IPv4, all others) that a node has room for unless told otherwise."""


class Datapath:
    """The node's cross-connect program, loaded, and its maps, open.

    Every method that reads or writes raises DatapathError when the kernel refuses.
    """

    def __init__(
        self,
        programs: Programs,
        maps: Mapping[str, Map],
        pin_root: Path,
        patience: Patience,
        shortcuts: tuple[Shortcut, Shortcut],
    ) -> None:
        self.program_fd = programs.cross_connect
        """For the tc filters of the data links."""
        self.shortcut, self.underlay_shortcut = shortcuts
        """For their tcx hooks; its frames come to the same program. And for that of the node's interface: past the
        tunnel's device, to the program that is there."""
        self.counters = Counters(maps)
        """Read from the same maps."""
        self.session_tables = SessionTables(maps, programs)
        """In the same maps."""
        self._programs = programs
        self._pin_root = pin_root
        self._maps = maps
        self._links, self._targets, self._holders = maps["links"], maps["targets"], maps["holders"]
        self._neighbours, self._learned = maps["neighbours"], maps["learned"]
        self._numbers, self._patience = maps["numbers"], maps["patience"]
        self._session_keys = maps["session_keys"]
        self._far_links, self._members = maps["far_links"], maps["members"]
        self.peers = Peers(maps, programs, self.session_tables)
        """In the same maps."""
        self._default_patience = patience
        self._left: set[int] = set()
        """Connection numbers to be forgotten."""
        self._rekeyed: set[int] = set()
        """Those that have sessions under a key that they had before."""
        self._leaving = threading.Lock()
        self._stamp = self._latest_stamp()

    @classmethod
    def open(
        cls,
        pin_root: Path = PIN_ROOT,
        capacity: int = CAPACITY,
        cflags: Sequence[str] = (),
        *,
        hash_key: HashKey,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> Self:
        """Compiles and loads the program (about three seconds) over the maps pinned below `pin_root`.

        `patience` is for chains, and protocols, that say nothing.
        A pinned map of another size or layout is replaced, and what it held is lost: that is what changing `capacity`
        does to the sessions. Raises DatapathError.
        """
        programs, maps, shortcuts = program.load(pin_root, capacity, cflags, hash_key, patience)
        return cls(programs, maps, pin_root, patience, shortcuts)

    def close(self) -> None:
        """Lets go of programs and maps. Filters and pins keep them, and frames keep flowing, by the filters."""
        for shortcut in (self.shortcut, self.underlay_shortcut):
            shortcut.close()
        self._programs.close()
        for each in self._maps.values():
            os.close(each.fd)

    def unpin(self) -> None:
        """Removes the pins: the maps vanish with the last filter. Succeeds when there are none."""
        for name in self._maps:
            (self._pin_root / name).unlink(missing_ok=True)
        if self._pin_root.is_dir():
            self._pin_root.rmdir()

    def take_over(self) -> None:
        """To be called before the first change, when another agent may have changed the maps since they were opened.

        That agent may have ended between the two steps of `set_link`.
        """
        self._stamp = self._latest_stamp()
        self.peers.restore()
        for connection in {entry.connection for _, entry in self._observed_links()}:
            self._restamp(connection)

    @contextmanager
    def succeeding(self, programs: Collection[int]) -> Iterator[None]:
        """To be held while this program is put into filters that held `programs` (the kernel's numbers of them).

        Those may be of another version, with session tables of their own: their sessions are taken over, those opened
        in the meantime, too. After that no filter has a program of others, and frames may take the shortcut.
        """
        with sessions_taken_over(programs, self.session_tables):
            yield
        self.open_shortcuts()

    def open_shortcuts(self) -> None:
        """From now on frames take them."""
        for shortcut in (self.shortcut, self.underlay_shortcut):
            shortcut.open()

    def shut_shortcuts(self) -> None:
        """From now on frames take the filters, and those of other nodes the tunnel's device."""
        for shortcut in (self.shortcut, self.underlay_shortcut):
            shortcut.shut()

    def observe(self, known: Mapping[tuple[int, Side], bytes] = MappingProxyType({})) -> DataPlane:
        """The content of the maps; `filters` is empty, because they are not in maps.

        A table that is as in `known` is that object: all together they are too large to be held twice.
        """
        holders = {key: packed for key, (packed,) in self._holders.items()}
        tables = (
            ((connection, Side(side)), table + stripped(holders.get((connection, side), b"")))
            for (connection, side), (table,) in self._targets.items()
        )
        return DataPlane(
            links=dict(self._observed_links()),
            targets={side: known[side] if known.get(side) == table else table for side, table in tables},
            neighbours={
                (connection, Side(side), address_text(address)): mac.text(octets)
                for (connection, side, address), (octets,) in self._neighbours.items()
            },
            numbers={number: Numbered(*map(text_of, packed)) for (number,), packed in self._numbers.items()},
            patience={number: Patience(*own) for (number,), own in self._patience.items() if any(own)},
            session_keys={number: _session_key(kind) for (number,), (kind,) in self._session_keys.items() if kind},
            far=dict(self._observed_far_links()),
            members=dict(self._observed_members()),
        )

    def set_number(self, number: int, connection: Numbered) -> None:
        """Notes what a number stands for, so that its sessions outlive the agent. Raises ValueError for names that are
        longer than a chain's may be."""
        self._numbers.put((number,), tuple(map(packed_text, connection, NUMBERED_SIZES)))

    def set_patience(self, number: int, patience: Patience) -> None:
        """How long silent sessions of a cross-connection stay active. A 0 stands for the node's default."""
        self._patience.put((number,), astuple(patience))

    def clear_patience(self, number: int) -> None:
        """The counterpart of `set_patience`: the node's default holds."""
        self._patience.put((number,), (0,) * 4)

    def patience(self, number: int) -> Patience:
        """What holds for a cross-connection. One with a number of an earlier version has the node's default."""
        own = Patience(*self._patience.get((number,))) if number < NUMBERS else Patience()
        return own.completed(self._default_patience)

    def set_session_key(self, number: int, key: SessionKey) -> None:
        """What belongs to one session of a cross-connection. Its sessions by the key before are removed: their
        frames would not find them, and a drain would wait for them. The next `sweep` does that."""
        self._session_keys.put((number,), (_KEY_KINDS.index(key),))
        if any(self._maps["holdings"].get((number,))):
            with self._leaving:
                self._rekeyed.add(number)

    def clear_session_key(self, number: int) -> None:
        """The counterpart of `set_session_key`: a session is a flow."""
        self.set_session_key(number, SessionKey.FLOW)

    def set_link(self, slot: int, link: LinkEntry) -> None:
        """Writes the slot's entry, in an order in which no frame meets half of a link.

        The kernel does not write an element at once. A link that differs in more than its state is another one: its
        slot is cleared first, and its counters begin anew.
        """
        with self._leaving:
            self._left.discard(link.connection)
        fixed = (link.ifindex, link.connection, link.side)
        plain = not link.paired
        before = self._links.get((slot,))
        if before[:3] != fixed:
            if any(before):
                self.clear_link(slot)
            self._maps["traffic"].put((slot,), (0,) * 6)
            self._maps["contests"].put((slot,), (0, 0))
            self._links.put((slot,), (*fixed, 0, plain, 0))
        self._links.put((slot,), (*fixed, link.state, plain, self._next_stamp()))
        loses = link.state == LinkState.WIRED and before[3] in (LinkState.SERVING, LinkState.DRAINING)
        if link.state == LinkState.GONE or loses or bool(before[4]) != plain:
            self._restamp(link.connection)

    def clear_link(self, slot: int) -> None:
        """Empties the slot's entry, the state first. Its sessions choose again at their next packet."""
        ifindex, connection, side, state, plain, _ = self._links.get((slot,))
        self._links.put((slot,), (ifindex, connection, side, 0, plain, 0))
        if state:
            self._restamp(connection)
        self._links.put((slot,), (0,) * 6)
        for place in range(FRAGMENT_PLACES):
            self._maps["fragments"].delete((slot, place))

    def _restamp(self, connection: int) -> None:
        """A link of the cross-connection has left, or lost its sessions: from now on none is taken for granted."""
        for slot in [slot for batch in self._links.batches() for slot in slots_of(connection, *batch)]:
            *fixed, state, plain, _ = self._links.get((slot,))
            if state:
                self._links.put((slot,), (*fixed, state, plain, self._next_stamp()))

    def _latest_stamp(self) -> int:
        latest: int = max(stamp for *_, stamp in self._links.values())
        return latest

    def _next_stamp(self) -> int:
        self._stamp = self._stamp % 0xFFFFFFFF + 1
        return self._stamp

    def _observed_links(self) -> Iterator[tuple[int, LinkEntry]]:
        for (slot,), (ifindex, connection, side, state, plain, _) in self._links.items():
            if state:
                yield slot, LinkEntry(ifindex, connection, Side(side), LinkState(state), paired=not plain)

    def _observed_far_links(self) -> Iterator[tuple[int, FarLink]]:
        for (identity,), (index,) in self._far_links.items():
            found, connection, side, state, *_ = self._links.get((index,))
            if found == identity and state == self._far_state(identity):
                yield index, FarLink(identity, connection, Side(side))

    def set_far_link(self, index: int, link: FarLink) -> None:
        """Writes what targets may name as a link of another node. The kernel does not write an element at once, so the
        one that was there is cleared first."""
        with self.peers.changing:
            self.clear_far_link(index)
            self._links.put((index,), (link.identity, link.connection, link.side, 0, 1, 0))
            self._far_links.put((link.identity,), (index,))
            state = self._far_state(link.identity)
            self._links.put((index,), (link.identity, link.connection, link.side, state, 1, 0))

    def _far_state(self, identity: int) -> LinkState:
        return LinkState.SERVING if self.peers.is_up(peer_of(identity)) else LinkState.GONE

    def clear_far_link(self, index: int) -> None:
        """The counterpart of `set_far_link`. Its sessions stay; its node returns what it does not take."""
        with self.peers.changing:
            identity, connection, side, state, *_ = self._links.get((index,))
            if state:
                self._links.put((index,), (identity, connection, side, 0, 1, 0))
                self._far_links.delete((identity,))
            self._links.put((index,), (0,) * 6)

    def set_members(self, number: int, peers: Collection[int]) -> None:
        """Frames of these nodes, by number, may enter the cross-connection."""
        bits = sum(1 << peer for peer in peers)
        self._members.put((number,), (bits.to_bytes(PEERS // 8, "little"),))

    def clear_members(self, number: int) -> None:
        """Frames of no other node may enter the cross-connection any more."""
        self._members.delete((number,))

    def _observed_members(self) -> Iterator[tuple[int, frozenset[int]]]:
        for (number,), (packed,) in self._members.items():
            octets = ((8 * at, octet) for at, octet in enumerate(packed) if octet)
            yield number, frozenset(first + bit for first, octet in octets for bit in range(8) if octet >> bit & 1)

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        """Exchanges a side's whole lookup table, as `maglev.table` packs it, between two packets. `holders.packed` may
        follow it.

        Raises ValueError for a table of another length.
        """
        table, holders = table[: 2 * maglev.LENGTH], table[2 * maglev.LENGTH :]
        if len(table) != 2 * maglev.LENGTH or len(holders) > HOLDERS_BYTES:
            raise ValueError(
                f"targets of cross-connection {connection}, {side.name.lower()}: the table has {len(table)} bytes "
                f"instead of {2 * maglev.LENGTH}; make it with controller.node.plane.maglev.table"
            )
        if holders:
            self._holders.put((connection, side), (holders,))
        else:
            self._holders.delete((connection, side))
        self._targets.put((connection, side), (table,))

    def clear_targets(self, connection: int, side: Side) -> None:
        """Removes a side's lookup table: no new session gets a link of this side."""
        self._targets.delete((connection, side))
        self._holders.delete((connection, side))

    def set_neighbour(self, connection: int, side: Side, address: str, mac_address: str) -> None:
        """Answers ARP requests or neighbour solicitations for `address` that come from `side`."""
        self._neighbours.put((connection, side, packed_address(address)), (mac.octets(mac_address),))

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        """The counterpart of `set_neighbour`."""
        self._neighbours.delete((connection, side, packed_address(address)))

    def unlearn(self, connection: int) -> None:
        """Removes what the program learned about neighbours from frames: the chain has changed since."""
        for place in range(LEARNED_PLACES):
            self._learned.delete((connection, place))

    def forget(self, connection: int) -> None:
        """Asks for the removal of sessions, counts and what was learned under a number that no link has any more. The
        next `sweep` does it."""
        with self._leaving:
            self._left.add(connection)

    def sweep(self) -> None:
        """Removes all that was to be forgotten, and the sessions by former keys. Takes some milliseconds for each
        number, and may run beside anything else. The number itself goes last: while it is in its map, it stands for
        nothing else. It stays when a link has got it again meanwhile."""
        with self._leaving:
            rekeyed, self._rekeyed = self._rekeyed, set()
        for connection in sorted(rekeyed):
            self.session_tables.forget(connection)
        for connection in sorted(self._left):
            self.session_tables.forget(connection)
            self.unlearn(connection)
            for verdict in verdicts():
                self._maps["drops"].delete((connection, verdict))
            with self._leaving:
                if connection in self._left:
                    if connection < NUMBERS:
                        self.clear_patience(connection)
                        self._session_keys.put((connection,), (0,))
                    self._numbers.delete((connection,))
                    self._left.discard(connection)

    def sessions(self) -> Iterator[Session]:
        """Every session remembered, active or not."""
        return (_session(key, value) for key, value in self.session_tables.items())

    def activity(self, slots: Collection[int], now_ns: int | None = None) -> dict[int, int]:
        """How many active sessions each of `slots` has, on either side; `now_ns` is CLOCK_MONOTONIC.

        The kernel looks at the whole session tables: some milliseconds for each million of places.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now_ns is None else now_ns
        return self.session_tables.activity(slots, now)

    def end_sessions(self, slots: Collection[int], now_ns: int | None = None) -> None:
        """Ends what is left of the links in `slots`: each side of a session learns it when it sends again, by a RST or
        an ICMP error. Takes twice as long as `activity`."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now_ns is None else now_ns
        self.session_tables.end(slots, now)


def slots_of(connection: int, keys: bytes, values: bytes) -> Iterator[int]:
    """The slots among these, as map `links` packs them, whose entries have this cross-connection.

    A replica that leaves waits for it, so no entry is unpacked whole. The cross-connection is an entry's second word.
    """
    slots, words = array("I", keys), array("I", values)
    length = len(words) // len(slots) if slots else 1
    yield from (slot for slot, of in zip(slots, words[1::length], strict=True) if of == connection)


def _session_key(kind: int) -> SessionKey:
    """A kind that only a later version has counts as none: it is written anew."""
    return _KEY_KINDS[kind] if kind < len(_KEY_KINDS) else SessionKey.FLOW


def _session(key: Fields, value: Fields) -> Session:
    _, _, upstream_port, downstream_port, protocol, _, connection = key
    upstream, downstream, last_seen, upstream_finished, downstream_finished, reset, standing = value
    return Session(
        connection=connection,
        protocol=protocol,
        has_ports=upstream_port + downstream_port != bytes(4),
        upstream=upstream,
        downstream=downstream,
        last_seen_ns=last_seen,
        upstream_finished=bool(upstream_finished),
        downstream_finished=bool(downstream_finished),
        reset=bool(reset),
        answered=bool(standing & (ANSWERED | PROVEN | WAS_PROVEN)),
        carried=frozenset(protocol for bit, protocol in CARRIED.items() if standing & bit),
    )
