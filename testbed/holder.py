"""Process 1 of a node: mounts the node's file systems, then only collects ended processes.

`unshare` runs it in new mount, network, process, host-name and IPC namespaces. The node's root is an overlay: the
machine's own root below, memory above. So a node sees every program of the machine, and cannot write outside its folder
in the testbed's state. All mounts belong to the mount namespace and vanish with its last process.

It runs as a plain script: standard library only, and no import of the testbed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

SHIELDED = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Settings of the whole machine that a kubelet changes at its start. Here it writes to copies of them."""


def mount(*arguments: str | Path) -> None:
    """Runs `mount`; CalledProcessError when it fails."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def make_root(folder: Path) -> Path:
    """Mounts the node's root, an overlay, below `folder`; returns where."""
    upper, root = folder / "upper", folder / "root"
    for made in (upper, root):
        made.mkdir()
    mount("-t", "tmpfs", "tmpfs", upper)
    for made in (upper / "files", upper / "work"):
        made.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper}/files,workdir={upper}/work", root)
    return root


def mount_kernel_file_systems(root: Path) -> None:
    """Mounts proc, sysfs, cgroups, bpf and dev, which show the new namespaces, and empty /run, /tmp and /dev/shm."""
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "sysfs", root / "sys")
    mount("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup")
    mount("-t", "bpf", "bpf", root / "sys/fs/bpf")
    mount("--rbind", "/dev", root / "dev")
    for folder in ("run", "tmp", "dev/shm"):
        mount("-t", "tmpfs", "tmpfs", root / folder)
    (root / "tmp").chmod(0o1777)


def shield_settings(root: Path) -> None:
    """Mounts a copy over each setting in SHIELDED, so that the machine's own stays as it is."""
    for name in SHIELDED:
        setting = root / "proc/sys" / name
        if setting.exists():
            copy = root / "run/settings" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(setting.read_text())
            mount("--bind", copy, setting)


def bind(root: Path, folders: dict[str, str]) -> None:
    """Mounts folders of the machine in the node: by path on the machine, the path in the node."""
    for source, target in folders.items():
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", source, place)


def enter(root: Path) -> None:
    """Makes `root` the root of this mount namespace, and lets go of the old one."""
    old = root / ".old"
    old.mkdir()
    os.chdir(root)
    subprocess.run(["pivot_root", ".", ".old"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/.old"], check=True)
    Path("/.old").rmdir()
    mount("--make-rshared", "/")  # as on any node, so that Bidirectional mounts of pods reach it
    for made in ("/run/netns", "/run/lock", "/run/sfc", "/run/containerd"):
        Path(made).mkdir(parents=True, exist_ok=True)


def collect_ended_processes() -> None:
    """Waits for ended children, as process 1 must; never returns."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def main() -> None:
    """Arguments: the node's name, its folder, the state folder to hide, a JSON object of folders to bind, a pipe.

    It writes to the pipe when all is mounted.
    """
    name, folder, hidden, folders, ready = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    socket.sethostname(name)
    root = make_root(Path(folder))
    mount_kernel_file_systems(root)
    shield_settings(root)
    bind(root, json.loads(folders))
    mount("-t", "tmpfs", "tmpfs", root / hidden.lstrip("/"))  # a node must not see the other nodes' keys
    enter(root)
    os.write(int(ready), b"ready")
    os.close(int(ready))
    collect_ended_processes()


if __name__ == "__main__":
    main()
