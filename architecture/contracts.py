"""A contract type for import-linter: what the files of a room may import.

The contract types that import-linter brings name what is forbidden. They allow a package that nobody thought of. This
one is an allow-list: a room imports itself, what its contract names, and the standard library. Of the standard library,
a *pure* room imports only the modules that `[tool.importlinter]` names as pure, because they do no I/O.

Only direct imports count. What an imported room imports is the business of that room's own contract.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.domain.imports import Module


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """An import that a contract does not allow; `lines` are its line numbers in the importing file."""

    importer: str
    imported: str
    lines: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.importer} -> {self.imported} (line {', '.join(map(str, self.lines))})"


def violations(graph: ImportGraph, room: Collection[str], allowed: Collection[str]) -> list[Violation]:
    """Every import from a file of the room to something that is neither in the room nor allowed.

    A name of a package stands for everything below it. `graph` must include external packages.
    """
    return sorted(
        Violation(importer, imported, _lines(graph, importer, imported))
        for importer in graph.modules
        if is_in(importer, room)
        for imported in graph.find_modules_directly_imported_by(importer)
        if not is_in(imported, [*room, *allowed])
    )


def is_in(module: str, packages: Iterable[str]) -> bool:
    """True when a module is one of the packages, or below one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _lines(graph: ImportGraph, importer: str, imported: str) -> tuple[int, ...]:
    details = graph.get_import_details(importer=importer, imported=imported)
    return tuple(sorted(detail["line_number"] for detail in details))


class RoomContract(Contract):
    """The contract type `room`.

    - room: a folder, with the folders below it; or several files that are one room together.
    - may_import: rooms and third-party packages. For a pure room also modules of the standard library.
    - pure: of the standard library, allow only the modules in `pure` of `[tool.importlinter]`.
    """

    type_name = "room"

    room = fields.SetField(subfield=fields.ModuleField())
    may_import = fields.SetField(subfield=fields.ModuleField())
    pure = fields.BooleanField(default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Broken when the room does not exist, or when a file of it imports what the contract does not allow."""
        library = cast(list[str], self.session_options["pure"]) if self.pure else sys.stdlib_module_names
        missing = [f"{name} does not exist" for name in _names(self.room) if name not in graph.modules]
        found = [*missing, *violations(graph, _names(self.room), {*_names(self.may_import), *library})]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print what breaks the contract, and what the room may import."""
        for problem in check.metadata["found"]:
            output.print_error(f"- {problem}", bold=False)
        library = "pure modules of the standard library" if self.pure else "the standard library"
        output.new_line()
        output.print(f"This room may import: {', '.join([*_names(self.may_import), library])}.")
        output.new_line()


def _names(modules: object) -> list[str]:
    """The sorted names in a field. For a type checker a field of import-linter has no value, so this takes any."""
    return sorted(module.name for module in cast(Iterable[Module], modules))
