"""docs/packets.md, from what the program does with each kind of frame: `python -m tests.bpf.packets_table`, as root."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bpffs import private_bpffs
from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import Conversation, fragments, udp
from tests.bpf.kinds import FAMILIES, KINDS, Fate, Kind
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, Node
from tests.bpf.observation import PACKET, SESSION, Observation, observe, wire

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "packets.md"

_INTRODUCTION = """\
# Packets: what happens to each kind

This page lists what the cross-connection does with a frame that a replica sends, by kind of frame.
The frame goes to exactly one replica of the other side, unchanged, and never to a replica of the
sender's own side. No frame is dropped because its kind is unknown: a frame that no rule covers goes
by its pair of MACs. The page is about links whose `sessionKey` is `flow`; what another key changes
is at its end.

`make packets` writes this page. It sends each kind through the program, from either side, and
writes down the result. A test fails when the page and the program differ.

**Known by** lists the fields that decide where a frame goes. Frames with the same fields go the
same way, whatever else differs. An answer, with source and destination exchanged, counts as the
same. *Identification* is the number that the fragments of a datagram share. *Identifier* is the
number of an echo. *Target* is the address that a frame asks for or announces.

**What happens**:

| | |
|---|---|
| by its session | the first frame opens a session, which pins one replica on each side; all other frames, in both directions, go there as long as the replica lives |
| with the packet it quotes | the frame goes where the session of that packet goes, back to the sender of that packet; it neither opens nor moves the session |
| with its first fragment | the frame goes where the first fragment of its datagram went, within 30 seconds |
| with its datagram | no replica is known to be right yet: the frame goes where the latest datagram in fragments between the same addresses went from this link, or else by choice; the other fragments of its datagram follow it, and so does the first one if it opens a session |
| by choice | the frame goes where the lookup table of the other side's targets points; the same *known by* leads to the same replica until the targets change; nothing is remembered |
| answered | the program answers the replica that asks, and no other replica sees the question |

**Counted as** names the counters:

- *packet*: the traffic of the link that the frame comes from and of the link that it goes to
  (`sfc_link_packets_total`);
- *session*: a session that the frame opens (`sfc_link_sessions_total`);
- a verdict by its name: `sfc_dropped_packets_total` counts dropped frames, and
  `sfc_remarkable_packets_total` counts frames that are carried although something is wrong.
"""  # noqa: E501

_BETWEEN_NODES = """\
Every kind may be for a replica of another node. There the frame comes from the tunnel, and the
program decides by what that node knows. `tests/netns/test_two_nodes.py` shows this part; a test run
of the program alone has no tunnel.

| when | what happens | counted as |
| --- | --- | --- |
| its kind can pass the tunnel's device, and the node allows it | as by the device, in no other way | – |
| its session is known there | by its session, whatever the sender chose | packet |
| no session is known, and the replica serves | its session is opened there, too | packet, session |
| no session is known, and the replica takes no new one | back to its node | `returned` |
| its session ended there with a drain's deadline | answered by that node | `reset` |
| it came back to its node | its sender's link chooses again | `chosen_again` |
| the same, and no other link takes its session | to the link that returned it, as a last resort | – |
| it is a last resort, and its session is known there | to that link, ready or not | packet |
| it is a last resort otherwise | dropped | `no_target` |
| it came back once, and the next replica drains, too | its session is opened there | packet, session |
| it came back because its sender's link is gone, too | dropped | `no_target` |
| it belongs to no session, or is a later fragment | to the replica that the sender chose | packet |
| it is for a group, or asks for an unknown neighbour | to the one replica that the sender's node chose | packet |
| one of the last two, and that replica receives nothing any more | back to its node | `returned` |
| the node of its replica is silent, and no other target is left, or there is no tunnel | dropped | `peer_down` |
| it comes from an address that no node with these chains has | dropped | `stranger` |
| its node is not known to have a link in the chain | back to its node | `returned` |
| the same, and it is a frame that comes back | dropped | `outsider` |
| it is in another version of the wire | dropped | `wire_version` |
"""

_BY_KEYS = """\
`sessionKey` of a chain, or of an interface for its link, says what belongs to one session. It is
about packets of IP alone: neighbours that are asked for, frames without IP and frames for a group
go as the tables say. `tests/bpf/test_session_keys.py` shows this part.

| packet | `addresses` | `upstreamAddress` | `inner` |
| --- | --- | --- | --- |
| any packet of IPv4 or IPv6, outside tunnels | both addresses | the address at the upstream side | as by `flow` |
| a packet in GTP-U (UDP port 2152), VXLAN (4789), GRE, IPv4 or IPv6 in IP | both outer addresses | the outer address at the upstream side | as the packet inside, by `flow` |
| the same, first fragment of the outer packet | both outer addresses | the outer address at the upstream side | as the packet inside; the other fragments follow it |
| a packet of such a tunnel without IP inside, or about the tunnel itself (GTP-U echo, an ICMP error) | both outer addresses | the outer address at the upstream side | both outer addresses |
| a later fragment | as its first one: it needs no ports | as its first one | as by `flow` |
| an ICMP error | both addresses of the quoted packet | of the quoted packet | as by `flow` |
| VLANs of a frame | a session of its own, and the same replica | a session of its own, and the same replica | a session of its own, and the same replica |

The program reads what is inside up to 256 bytes of the frame, at most two extension headers of
GTP-U, and one tunnel, not another one in it.
"""  # noqa: E501

_HAPPENS = {
    Fate.SESSION: "by its session",
    Fate.CHOSEN: "by choice",
    Fate.ANSWERED: "answered",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """In which a frame's kind is not what decides."""

    name: str
    arrange: Callable[[Node], None]
    slot: int = 1
    frame: Conversation = udp


def _no_targets(node: Node) -> None:
    node.datapath.clear_targets(CONNECTION, Side.DOWNSTREAM)


def _all_gone(node: Node) -> None:
    node.link(11, Side.DOWNSTREAM, LinkState.GONE)


def _nothing(node: Node) -> None:
    pass


def _two_claim(node: Node) -> None:
    node.link(2, Side.UPSTREAM)
    node.send(2, udp(Side.UPSTREAM))


def _ended(node: Node) -> None:
    node.send(1, udp(Side.UPSTREAM))
    node.datapath.end_sessions([11])


def _of_another_interface(node: Node) -> None:
    node.link(1, Side.UPSTREAM, ifindex=4711)


def _parted(node: Node) -> None:
    """The session is with a replica that drains; the datagram's last fragment went to the only target."""
    node.send(1, udp(Side.UPSTREAM))
    node.serve(Side.DOWNSTREAM, (12,))
    node.link(11, Side.DOWNSTREAM, LinkState.DRAINING)
    node.send(1, fragments(Side.UPSTREAM)[-1])


SITUATIONS = [
    Situation("the other side has no target", _no_targets),
    Situation("each target of the other side is gone", _all_gone),
    Situation("the sender's slot holds no link yet, or no longer", _nothing, slot=20),
    Situation("another serving replica of the side uses the same addresses and ports", _two_claim),
    Situation(
        "its session is with another replica than fragments that came before this first one went to",
        _parted,
        frame=lambda sender, number: fragments(sender, number)[0],
    ),
    Situation("its session ended with a drain's deadline", _ended),
    Situation("all 16 places of its bucket are held by sessions that live", Node.leave_no_room),
    Situation("the frame comes by another interface than that of the slot", _of_another_interface),
    Situation("the filter names no slot", _nothing, slot=0),
]


def observed(node: Node) -> dict[str, tuple[Observation, Observation]]:
    """By kind, what becomes of it that comes from upstream and from downstream."""
    return {
        name: (observe(node, kind, Side.UPSTREAM), observe(node, kind, Side.DOWNSTREAM)) for name, kind in KINDS.items()
    }


def page(node: Node, observations: Mapping[str, tuple[Observation, Observation]]) -> str:
    tables = (f"## {family}\n\n{_kinds(kinds, observations)}" for family, kinds in FAMILIES.items())
    situations = f"## Whatever the kind\n\n{_situations(node)}"
    return "\n".join(
        [
            _INTRODUCTION,
            *tables,
            situations,
            f"## Between nodes\n\n{_BETWEEN_NODES}",
            f"## By other session keys\n\n{_BY_KEYS}",
        ]
    )


def _kinds(kinds: Iterable[Kind], observations: Mapping[str, tuple[Observation, Observation]]) -> str:
    """From upstream; a test sees to it that downstream is like it."""
    rows = ((kind, observations[kind.name][Side.UPSTREAM]) for kind in kinds)
    return _table(
        ("packet", "known by", "what happens", "counted as"),
        ((kind.name, _words(seen.known_by), _happens(kind, seen), _counts(seen.counted_as)) for kind, seen in rows),
    )


def _words(fields: Sequence[str]) -> str:
    """Source and destination in one word; in one phrase what is quoted."""
    told = "; ".join(fields)
    for one, both in {"MAC": "MACs", "address": "addresses", "port": "ports"}.items():
        told = re.sub(rf"(quoted )?source {one}; (quoted )?destination {one}", rf"\1{both}", told)
    told = told.replace("VLAN; VLAN 2", "both VLANs").replace("; ", ", ")
    own, _, quoted = told.partition("quoted ")
    return f"{own}{quoted.replace('quoted ', '')} of the quoted packet" if quoted else told


def _happens(kind: Kind, seen: Observation) -> str:
    if kind.reacts_to:
        follows = "with the packet it quotes"
    else:
        follows = "with its first fragment" if kind.continues else "with its datagram"
    return _HAPPENS.get(seen.fate, follows)


def _counts(counted_as: Iterable[str]) -> str:
    return ", ".join(each if each in (PACKET, SESSION) else f"`{each}`" for each in counted_as)


def _situations(node: Node) -> str:
    return _table(("when", "what happens", "counted as"), (_refused(node, situation) for situation in SITUATIONS))


def _refused(node: Node, situation: Situation) -> tuple[str, str, str]:
    node.reset()
    wire(node, {Side.UPSTREAM: (1,), Side.DOWNSTREAM: (11,)})
    situation.arrange(node)
    before = node.tally()
    outcome = node.send(situation.slot, situation.frame(Side.UPSTREAM, 0))
    sent = "answered" if outcome.sent_to == situation.slot else "forwarded"
    happens = {TC_ACT_REDIRECT: sent, TC_ACT_SHOT: "dropped", TC_ACT_UNSPEC: "left to the host"}[outcome.action]
    return situation.name, happens, _counts(node.tally().since(before).verdicts.elements()) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    with private_bpffs() as path:
        node = Node(path / "v1")
        try:
            DOCUMENT.write_text(page(node, observed(node)))
        finally:
            node.close()


if __name__ == "__main__":
    main()
