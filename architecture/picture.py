"""The picture of the rooms in docs/architecture.md, drawn from the imports in the code.

A room is what an import contract of the type `room` covers (`pyproject.toml`). An arrow means that a file of the one
room imports a file of the other. An arrow that follows from others is left out, so that the picture can be read.

`make rooms` writes the picture. `make lint` runs it with `--check`, which fails when the picture does not fit the code.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from architecture.contracts import is_in

CONFIGURATION = Path("pyproject.toml")
PAGE = Path("docs/architecture.md")
BEGIN = "<!-- rooms: written by `make rooms` -->"
END = "<!-- end of rooms -->"
NODE = "controller.node."

Room = tuple[str, ...]
"""The dotted names of a room's modules: one folder, or several files that are one room together."""


def rooms(configuration: str) -> list[Room]:
    """The rooms that have an import contract; `configuration` is TOML."""
    contracts = tomllib.loads(configuration)["tool"]["importlinter"]["contracts"]
    named = [contract["room"] for contract in contracts if contract["type"] == "room"]
    return sorted((room,) if isinstance(room, str) else tuple(sorted(room)) for room in named)


def arrows(graph: grimp.ImportGraph, of: Iterable[Room]) -> dict[Room, set[Room]]:
    """Which rooms each room imports. A file belongs to the innermost room around it."""
    outermost_first = sorted(of, key=lambda room: max(map(len, room)))
    room_of = {module: room for room in outermost_first for module in graph.modules if is_in(module, room)}
    found: dict[Room, set[Room]] = {room: set() for room in outermost_first}
    for importer, room in room_of.items():
        imported = {
            room_of[module] for module in graph.find_modules_directly_imported_by(importer) if module in room_of
        }
        found[room] |= imported - {room}
    return found


def fewest(found: Mapping[Room, Collection[Room]]) -> list[tuple[Room, Room]]:
    """The arrows without those that follow from others, in a fixed order.

    Raises graphlib.CycleError when rooms import each other in a circle.
    """
    reachable: dict[Room, set[Room]] = {}
    for room in TopologicalSorter(found).static_order():
        reachable[room] = set(found[room]).union(*(reachable[imported] for imported in found[room]))
    return sorted(
        (room, imported)
        for room in found
        for imported in found[room]
        if not any(imported in reachable[other] for other in found[room])
    )


def mermaid(drawn: Iterable[tuple[Room, Room]], of: Iterable[Room]) -> str:
    """A mermaid flowchart. The rooms of the node agent stand in a box of their own."""
    agent = [room for room in of if room[0].startswith(NODE)]
    others = [room for room in of if room not in agent]
    lines = ["```mermaid", "flowchart TB"]
    lines += ['  subgraph node ["controller/node"]', *(f"    {_box(room)}" for room in agent), "  end"]
    lines += [f"  {_box(room)}" for room in others]
    lines += [f"  {_id(room)} --> {_id(imported)}" for room, imported in drawn]
    return "\n".join([*lines, "```"])


def _box(room: Room) -> str:
    folder, _, file = room[0].removeprefix(NODE).rpartition(".")
    files = ", ".join([file, *(name.rpartition(".")[2] for name in room[1:])])
    return f'{_id(room)}["{folder.replace(".", "/")}{"/" if folder else ""}{files}"]'


def _id(room: Room) -> str:
    return room[0].replace(".", "-")


def with_picture(page: str, picture: str) -> str:
    """The page with this picture between its two markers. Raises ValueError when a marker is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: the markers '{BEGIN}' and '{END}' are missing; put them where the picture belongs.")
    return f"{before}{BEGIN}\n\n{picture}\n\n{END}{after}"


def main() -> int:
    """Write the picture into its page, or with `--check` only compare. Returns the exit code."""
    configuration = CONFIGURATION.read_text()
    packages = tomllib.loads(configuration)["tool"]["importlinter"]["root_packages"]
    of = rooms(configuration)
    found = arrows(grimp.build_graph(*packages, cache_dir=None), of)
    page = PAGE.read_text()
    wanted = with_picture(page, mermaid(fewest(found), of))
    if "--check" not in sys.argv:
        PAGE.write_text(wanted)
    elif wanted != page:
        print(
            f"{PAGE}: the picture of the rooms is stale. Run `make rooms`, then look at the difference.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
