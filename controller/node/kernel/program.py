"""The BPF program, compiled and loaded by BCC over pinned maps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bcc import BPF
from bcc.libbcc import lib

from controller.node.kernel.errors import DatapathError
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.maps import LAYOUTS, Map, map_info
from controller.node.plane import maglev
from controller.node.plane.model import PROGRAM, SLOTS
from controller.node.plane.neighbours import NEIGHBOURS_PER_LINK

SOURCE = Path(__file__).resolve().parents[3] / "bpf"
"""The folder of the program's C source."""

_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 17
"""The allocator's initial threshold for large pieces: mallopt(3)."""


def load(pin_root: Path, capacity: int, cflags: Sequence[str], hash_key: HashKey) -> tuple[int, dict[str, Map]]:
    """(descriptor of the program, its maps by name), all for the caller to close. Takes about half a second.

    The maps are those pinned below `pin_root`. A pinned map of another size or layout is replaced, and what it held is
    lost. Raises DatapathError.
    """
    _require_headers()
    _require_bpffs(pin_root)
    pin_root.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-I{SOURCE}",
        f'-DPIN_ROOT="{pin_root}"',
        f"-DSESSION_CAPACITY={capacity}",
        f"-DSLOTS={SLOTS}",
        f"-DTABLE_LENGTH={maglev.LENGTH}",
        f"-DNEIGHBOURS_PER_LINK={NEIGHBOURS_PER_LINK}",
        *hash_key.cflags,
        *cflags,
    ]
    module = _compiled(flags)
    if stale := [name for name in LAYOUTS if not _as_declared(module, name)]:
        module.cleanup()
        for name in stale:
            (pin_root / name).unlink()
        module = _compiled(flags)
    try:
        return _loaded(module), {name: Map(name, os.dup(_map_fd(module, name))) for name in LAYOUTS}
    finally:
        module.cleanup()
        _give_memory_back()


def _compiled(flags: Sequence[str]) -> BPF:
    try:
        return BPF(src_file=bytes(SOURCE / f"{PROGRAM}.c"), cflags=list(flags))
    except Exception as error:
        raise DatapathError(
            f"{PROGRAM}.c does not compile, or its maps can not be made: {error}; what the compiler said stands above"
        ) from error


def _loaded(module: BPF) -> int:
    try:
        return os.dup(module.load_func(PROGRAM.encode(), BPF.SCHED_CLS).fd)
    except Exception as error:
        raise DatapathError(f"{error}; what the kernel said stands above; it needs Linux 5.11 or later") from error


def _map_fd(module: BPF, name: str) -> int:
    fd: int = lib.bpf_table_fd(module.module, name.encode())
    return fd


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
