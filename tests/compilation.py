"""Compiles the program once for all nodes that have it with the same options. A compilation takes three seconds.

What is kept are the instructions alone. For each node BCC still makes the maps, or finds the pinned ones, and the
kernel still verifies the program: instructions name a map by its descriptor, so each node's get its own.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from bcc import BPF
from bcc.libbcc import lib

from controller.node.kernel import program

PROGRAMS = (*(name.encode() for name in program.OWN), b"sfc_shortcut", b"sfc_underlay")
_LAST_DECLARATION = "BPF_PROG_ARRAY(shortcut_to, 1);"
_ANY_PROGRAM = "int nothing(struct __sk_buff *skb) { return 0; }"
"""Without a program, BCC describes no types: "map 'wide_table' has to have BTF in order to use bpf_spin_lock"."""
_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_64, _OF_MAP = 0x18, 1
"""The code of an instruction that loads 64 bits, and its source if these are a map (linux/bpf.h)."""

_name_of_table = lib.bpf_table_name  # BCC declares no types for it
_name_of_table.restype = ctypes.c_char_p


class Compilations:
    """Stands in for the compiler of controller.node.kernel.program."""

    def __init__(self, compiler: Callable[[Sequence[str]], BPF], scratch: Path) -> None:
        self._compiler, self._scratch = compiler, scratch
        self._known: dict[tuple[str, ...], dict[bytes, list[bytes | str]]] = {}

    def compiled(self, flags: Sequence[str]) -> BPF:
        """As the compiler's answer, but for what debuggers would want. The maps are declared as in the source."""
        source, key = _source(), _key(flags)
        if key not in self._known:
            self._known[key] = self._compile(flags)
        declared, last, _ = source.partition(_LAST_DECLARATION)
        assert last, "the last declaration of a map is another one; this cache has to follow it"
        return _Module(f"{declared}{last}\n{_ANY_PROGRAM}", flags, self._known[key])

    def _compile(self, flags: Sequence[str]) -> dict[bytes, list[bytes | str]]:
        """The instructions of each program, in pieces: between them, the names of maps."""
        self._scratch.mkdir(exist_ok=True)
        module = self._compiler([*_without_pins(flags), f'-DPIN_ROOT="{self._scratch}"'])
        try:
            names = _names_of_maps(module)
            return {name: _pieces(module.dump_func(name), names) for name in PROGRAMS}
        finally:
            module.cleanup()
            for pin in self._scratch.iterdir():
                pin.unlink()


class _Module(BPF):  # type: ignore[misc]
    """Maps that BCC made from their declarations, and programs that were compiled before."""

    def __init__(self, declarations: str, flags: Sequence[str], programs: dict[bytes, list[bytes | str]]) -> None:
        super().__init__(text=declarations.encode(), cflags=list(flags))
        self._programs = programs

    def dump_func(self, func_name: bytes) -> bytes:
        fds = {name: fd for fd, name in _names_of_maps(self).items()}
        return b"".join(
            piece if isinstance(piece, bytes) else struct.pack("<i", fds[piece]) for piece in self._programs[func_name]
        )


def _source() -> str:
    return (program.SOURCE / f"{program.PROGRAM}.c").read_text()


def _key(flags: Sequence[str]) -> tuple[str, ...]:
    """All that the instructions depend on."""
    headers = [Path(flag) for before, flag in itertools.pairwise(flags) if before == "-include"]
    texts = [path.read_text() for path in (*sorted(program.SOURCE.iterdir()), *headers)]
    return (*(flag for flag in _without_pins(flags) if not flag.startswith(("-I", "/"))), *texts)


def _without_pins(flags: Sequence[str]) -> list[str]:
    return [flag for flag in flags if not flag.startswith("-DPIN_ROOT=")]


def _names_of_maps(module: BPF) -> dict[int, str]:
    """By descriptor."""
    at = ctypes.c_void_p(module.module)
    names = [_name_of_table(at, ctypes.c_size_t(number)) for number in range(lib.bpf_num_tables(at))]
    return {lib.bpf_table_fd(module.module, name): name.decode() for name in names}


def _pieces(code: bytes, names: dict[int, str]) -> list[bytes | str]:
    pieces: list[bytes | str] = []
    begin = at = 0
    while at < len(code):
        operation, registers, _, value = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_64 and registers >> 4 == _OF_MAP:
            pieces += code[begin : at + 4], names[value]
            begin = at + 8
        at += 16 if operation == _LOAD_64 else 8
    return [*pieces, code[begin:]]
