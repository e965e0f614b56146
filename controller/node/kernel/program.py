"""The BPF program, compiled and loaded by BCC over pinned maps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from bcc import BPF
from bcc.libbcc import lib

from controller.node.kernel.errors import DatapathError
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.maps import LAYOUTS, Map, map_info
from controller.node.kernel.session_table import FORMER_TABLES, TABLES, Programs
from controller.node.kernel.tcx import JUMP, SHORTCUT, UNDERLAY_JUMP, UNDERLAY_SHORTCUT, Shortcut
from controller.node.plane import maglev
from controller.node.plane.far import WIRE_VERSION
from controller.node.plane.model import CHOSEN_IFINDEX, FROM_TUNNEL, PROGRAM, SLOTS
from controller.node.plane.neighbours import NEIGHBOURS_PER_LINK
from controller.node.plane.numbers import NUMBERS
from sfc.chain import Patience
from sfc.names import HASH_KEY_BYTES

SOURCE = Path(__file__).resolve().parents[3] / "bpf"
"""The folder of the program's C source."""

OPTIMIZED_ONCE = ("-Xclang", "-disable-llvm-passes")
"""The compiler's options that leave optimization to BCC, which does it in any case. With both, a program takes twice as
long to compile, and the verifier has more than half as many instructions again to go through."""

OWN = (PROGRAM, "survey", "bring", FROM_TUNNEL, "into_tunnel", "refuse")
"""The programs, in the order of `Programs`."""
NOTE = "hash_key_note"
"""The map that tells by which key the others were written."""
REFUSAL = "refusal_entry"
"""The map that leads to `refuse`. Pinned, because the filters outlive the agent. Another agent's program will do, too.
"""
KEYED = {*TABLES, "holdings"}
"""The maps in which the key decides where something is, and the one that counts what is in them."""
SHOWN = HashKey(bytes(HASH_KEY_BYTES))
"""Of no cluster: for a program that is shown to people."""

_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 17
"""The allocator's initial threshold for large pieces: mallopt(3)."""


def load(
    pin_root: Path, capacity: int, cflags: Sequence[str], hash_key: HashKey, patience: Patience
) -> tuple[Programs, dict[str, Map], tuple[Shortcut, Shortcut]]:
    """The programs, their maps by name, and the shortcuts of links and of the node's interface, all for the caller to
    close. Takes three seconds or more.

    `patience` is the node's, with no zeros in it. The maps are those pinned below `pin_root`. A pinned map of another
    size or layout is replaced, and what it held is lost; so is a map whose places were found with another `hash_key`.
    Raises DatapathError.
    """
    _require_headers()
    _require_bpffs(pin_root)
    pin_root.mkdir(parents=True, exist_ok=True)
    declared = [
        *OPTIMIZED_ONCE,
        f"-I{SOURCE}",
        f'-DPIN_ROOT="{pin_root}"',
        f"-DSESSION_CAPACITY={capacity}",
        f"-DSLOTS={SLOTS}",
        f"-DCHOSEN_IFINDEX={CHOSEN_IFINDEX}",
        f"-DTABLE_LENGTH={maglev.LENGTH}",
        f"-DNEIGHBOURS_PER_LINK={NEIGHBOURS_PER_LINK}",
        f"-DNUMBERS={NUMBERS}",
        f"-DTUNNEL_VERSION={WIRE_VERSION}",
        patience_flag(patience),
        *cflags,
    ]
    flags = [*declared, *hash_key.cflags]
    module = _compiled(flags)
    if stale := _stale(module, hash_key) | _overtaken(pin_root):
        module.cleanup()
        for name in stale:
            (pin_root / name).unlink(missing_ok=True)
        module = _compiled(flags)
    try:
        maps = {name: Map(name, os.dup(_map_fd(module, name))) for name in LAYOUTS}
        maps[NOTE].put((0,), (hash_key.note,))
        shown = [*declared, *SHOWN.cflags]
        programs = Programs(*(_loaded(module, name, shown) for name in OWN))
        maps[REFUSAL].put((0,), (programs.refuse,))
        at_links, at_underlay = (
            Shortcut(_loaded(module, name, shown), os.dup(_map_fd(module, jump)), behind)
            for name, jump, behind in (
                (SHORTCUT, JUMP, programs.cross_connect),
                (UNDERLAY_SHORTCUT, UNDERLAY_JUMP, programs.from_tunnel),
            )
        )
        return programs, maps, (at_links, at_underlay)
    finally:
        module.cleanup()
        _give_memory_back()


def patience_flag(patience: Patience) -> str:
    """The compiler's option that gives a program the node's patience, which has no zeros."""
    return f"-DDEFAULT_PATIENCE={{{','.join(map(str, astuple(patience)))}}}"


def _compiled(flags: Sequence[str]) -> BPF:
    try:
        return BPF(src_file=bytes(SOURCE / f"{PROGRAM}.c"), cflags=list(flags))
    except Exception as error:
        raise DatapathError(
            f"{PROGRAM}.c does not compile, or its maps can not be made: {error}; what the compiler said stands above"
        ) from error


def _loaded(module: BPF, program: str, shown: Sequence[str]) -> int:
    """A descriptor of one of the programs.

    What the kernel says about a program that it refuses has all constants of it, and so the key. Therefore BCC, which
    prints that, gets room for none of it; the same program with the flags `shown` is refused for everybody to see.
    """
    fd = _accepted(module, program, ctypes.create_string_buffer(1))
    if fd >= 0:
        return fd
    again = _compiled(shown)
    try:
        fd, error = _accepted(again, program, None), ctypes.get_errno()
    finally:
        again.cleanup()
    if fd < 0:
        raise DatapathError(
            f"the kernel refused {program}: {os.strerror(error)}; what the kernel said stands above; it needs "
            "Linux 5.11 or later"
        )
    os.close(fd)
    raise DatapathError(f"the kernel refused {PROGRAM}.c, and took it when asked again; restart the agent")


def _accepted(module: BPF, program: str, log: ctypes.Array[ctypes.c_char] | None) -> int:
    """A descriptor of a program that the kernel accepts; below 0 if it refuses. Without `log`, BCC prints why."""
    name, at = program.encode(), module.module
    code, room = module.dump_func(name), len(log) if log else 0
    terms = lib.bpf_module_license(at), lib.bpf_module_kern_version(at)
    fd: int = lib.bcc_func_load(at, BPF.SCHED_CLS, name, code, len(code), *terms, 0, log, room, None, -1)
    return fd


def _map_fd(module: BPF, name: str) -> int:
    fd: int = lib.bpf_table_fd(module.module, name.encode())
    return fd


def _stale(module: BPF, hash_key: HashKey) -> set[str]:
    """The pinned maps to be replaced. An agent that ends before its own note stands there leaves empty ones behind."""
    stale = {name for name in LAYOUTS if not _as_declared(module, name)}
    if NOTE in stale or Map(NOTE, _map_fd(module, NOTE)).get((0,)) not in ((0,), (hash_key.note,)):
        stale |= KEYED
    return stale | KEYED if stale & KEYED else stale


def _overtaken(pin_root: Path) -> set[str]:
    """The session tables, if an agent of the version before has led since they were in use: it has pinned its own.

    Those go; the filters keep them until their sessions have been taken over.
    """
    former = [pin_root / name for name in (*FORMER_TABLES, "opened") if (pin_root / name).exists()]
    for pin in former:
        pin.unlink()
    return KEYED if former else set()


def _as_declared(module: BPF, name: str) -> bool:
    """Whether the map, which an earlier version may have pinned, is what the source declares."""
    info = map_info(_map_fd(module, name))
    sizes = (lib.bpf_table_key_size, lib.bpf_table_leaf_size, lib.bpf_table_max_entries)
    pointer = ctypes.c_void_p(module.module)  # BCC declares no types for these: a plain number would be cut to 32 bits
    declared = tuple(size(pointer, name.encode()) for size in sizes)
    return declared == (info.key_size, info.value_size, info.max_entries)


def _give_memory_back() -> None:
    """Returns the compiler's memory, a quarter of the agent's, to the system.

    Compiling has also taught the allocator to keep large pieces for reuse. The thresholds go back to their initial
    values, so that large pieces which a pass needs for a moment are returned at once.
    """
    for threshold in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        _libc.mallopt(threshold, _LARGE_BYTES)
    _libc.malloc_trim(0)


def _require_headers() -> None:
    headers = Path("/lib/modules") / platform.release() / "build"
    if not headers.exists():
        raise DatapathError(
            f"BCC finds no kernel headers: {headers} does not exist; install linux-headers-{platform.release()}, "
            "or link that path (and …/source) to the headers of another kernel"
        )


def _require_bpffs(path: Path) -> None:
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    _, kind = max((Path(point).parts, kind) for point, kind in mounts if path.absolute().is_relative_to(point))
    if kind != "bpf":
        raise DatapathError(f"{path} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")
