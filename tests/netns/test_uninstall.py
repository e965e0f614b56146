"""What stays on a node after the project is deleted, and that the command in docs/operations.md removes it."""

from __future__ import annotations

import re
from pathlib import Path

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.tunnel import DEVICE
from tests.hash_key import HASH_KEY
from tests.netns.node import inside, namespace, run, show

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs/operations.md").read_text().partition("\n## What an uninstall leaves\n")[2]
IN_THE_TEST = ("/sys/fs/bpf/sfc", "/run/sfc", "/opt/cni/bin/sfc")
"""What the command removes from a node's file systems. It must not remove that of this machine."""


def test_the_documented_command_removes_all_that_agents_leave_on_a_node(bpffs: Path, tmp_path: Path) -> None:
    folders = {path: (bpffs if "bpf" in path else tmp_path) / path.replace("/", "-") for path in IN_THE_TEST}
    folders["/opt/cni/bin/sfc"].touch()
    folders["/run/sfc"].mkdir()
    (command,) = re.findall(r"^# (.+)$", SECTION, re.MULTILINE)
    from_one_place = re.findall(r"sh -c '(.+)'", SECTION)
    for path, folder in folders.items():
        command = command.replace(path, str(folder))
    with namespace("left") as node:
        run("ip", "-n", node, "addr", "add", "10.201.0.1/32", "dev", "lo")
        links, rules = show("link", pod=node), run("ip", "netns", "exec", node, "nft", "list", "ruleset")
        with inside(node):
            datapath = Datapath.open(folders["/sys/fs/bpf/sfc"] / "v1", hash_key=HASH_KEY)
            tunnel = datapath.peers.tunnel("10.201.0.1", 5789)
            datapath.peers.open(tunnel.make())
            tunnel.close()
            datapath.close()
        left = [each["ifname"] for each in show("link", pod=node)]

        run("ip", "netns", "exec", node, "sh", "-ec", command)

        assert DEVICE in left
        assert [each["ifname"] for each in show("link", pod=node)] == [each["ifname"] for each in links]
        assert run("ip", "netns", "exec", node, "nft", "list", "ruleset") == rules == ""
        assert not any(folder.exists() for folder in folders.values())
        assert not re.search(r"(?<=\s)/(sys|run|opt)", command)
        assert [one for one in from_one_place for path in folders if path not in one] == []
