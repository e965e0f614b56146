"""The CNI plugin with the agent, as a container runtime calls them: real processes, namespaces and links."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from certs.signing import Signer
from controller.node.cni.call import Call
from controller.node.cni.reading import addition_of, attachment_of
from controller.node.cni.server import CniServer
from tests.netns import node as lab
from tests.netns.node import MAC, Node, configuration, show
from tests.statements import signed

COMMANDS = ("ADD", "CHECK", "DEL")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    return lab.build_plugin(folder, folder / "run" / "cni.sock", timeout_seconds=2)


@pytest.fixture
def address(plugin: Path) -> Path:
    return plugin.parent / "run" / "cni.sock"


@pytest.fixture
def ipam(tmp_path: Path) -> Path:
    """The folder that the agent takes the IPAM plugin from: as it is installed, until a test puts another one there."""
    folder = tmp_path / "ipam"
    folder.mkdir()
    (folder / "static").symlink_to(lab.IPAM / "static")
    return folder


@pytest.fixture
def node(plugin: Path, address: Path, ipam: Path) -> Iterator[Node]:
    with lab.namespace("node") as name, lab.inside(name), lab.agent(plugin, address, ipam) as running:
        yield running


def put(folder: Path, name: str, script: str, mode: int = 0o755) -> None:
    """A program in place of what is there."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(mode)


@pytest.fixture
def pod() -> Iterator[str]:
    with lab.namespace("pod") as name:
        yield name


def addresses(pod: str, interface: str = "net1") -> set[str]:
    shown = show("address", "show", "dev", interface, pod=pod)[0]["addr_info"]
    return {f"{a['local']}/{a['prefixlen']}" for a in shown if a["scope"] == "global"}


def test_add_sets_up_what_the_chain_asks_for_in_both_address_families(node: Node, pod: str) -> None:
    config = configuration(
        ips=["10.1.0.2/24", "2001:db8:1::2/64"],
        mtu=1400,
        routes=[
            {"dst": "10.2.0.0/16", "gw": "10.1.0.1"},
            {"dst": "2001:db8:2::/48", "gw": "2001:db8:1::1"},
            {"dst": "192.0.2.0/24"},
        ],
    )

    answer = node.call("ADD", pod, config)

    assert answer.status == 0, answer.output
    [link] = show("link", "show", "dev", "net1", pod=pod)
    assert (link["address"], link["mtu"]) == (MAC, 1400)
    assert "UP" in link["flags"]
    assert addresses(pod) == {"10.1.0.2/24", "2001:db8:1::2/64"}
    [ipv6] = [
        a for a in show("-6", "address", "show", "dev", "net1", pod=pod)[0]["addr_info"] if a["scope"] == "global"
    ]
    assert ipv6["nodad"]
    assert not ipv6.get("tentative")
    routes = {(r["dst"], r.get("gateway"), r["scope"]) for r in show("-4", "route", pod=pod) if r["dev"] == "net1"}
    assert routes >= {("10.2.0.0/16", "10.1.0.1", "global"), ("192.0.2.0/24", None, "link")}
    assert ("2001:db8:2::/48", "2001:db8:1::1") in {(r["dst"], r.get("gateway")) for r in show("-6", "route", pod=pod)}


def test_add_answers_with_the_result_of_the_specification(node: Node, pod: str) -> None:
    config = configuration(ips=["10.1.0.2/24"], routes=[{"dst": "10.2.0.0/16", "gw": "10.1.0.1"}])

    answer = node.call("ADD", pod, config)

    [host] = [link for link in show("link") if link["ifname"].startswith("sfc")]
    assert answer.output == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": host["ifname"], "mac": host["address"]},
            {"name": "net1", "mac": MAC, "sandbox": f"/run/netns/{pod}"},
        ],
        "ips": [{"address": "10.1.0.2/24", "interface": 1}],
        "routes": [{"dst": "10.2.0.0/16", "gw": "10.1.0.1"}],
        "dns": {},
    }


def test_the_host_end_says_whose_it_is_and_carries_our_filter(node: Node, pod: str) -> None:
    node.call("ADD", pod)

    [link] = node.links.list()
    assert (link.pod_uid, link.interface, link.drain_id) == (lab.POD_UID, "net1", lab.DRAIN_ID)
    assert 1 <= link.slot <= 4095
    assert link.filter_slot == link.slot
    assert node.changes == [None]


def test_the_host_end_says_for_which_chain_and_stage_it_was_made(node: Node, pod: str) -> None:
    node.call("ADD", pod)

    [link] = node.links.list()
    assert (link.chain, link.stage) == ("edge", "nat")


def by_hand() -> dict[str, Any]:
    """What Multus hands over for the annotation `sfc@net1` of a pod that nobody admitted."""
    config = configuration()
    return {key: value for key, value in config.items() if key not in ("args", "runtimeConfig")}


def changed(**arguments: object) -> dict[str, Any]:
    config = signed(configuration(), "telco", "net1")
    config["args"]["cni"] |= arguments
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (by_hand(), "without a signature of the webhook: label its workload with sfc.dev/chain and sfc.dev/stage"),
        (changed(signature=None), "without a signature of the webhook: label its workload"),
        (signed(configuration(), "victim", "net1"), 'K8S_POD_NAMESPACE is "telco", but the webhook signed namespace'),
        (signed(configuration(), "telco", "net2"), 'CNI_IFNAME is "net1", but the webhook signed interface "net2"'),
        (
            signed(configuration(), "telco", "net1") | {"runtimeConfig": {"mac": "02:5f:c0:00:00:02"}},
            "the webhook signed mac",
        ),
        (changed(stage="server"), "args.cni is not what the webhook signed"),
        (signed(configuration(), "telco", "net1", Signer(bytes(32))), "which this node does not accept"),
    ],
    ids=["by hand", "no signature", "other namespace", "other interface", "other MAC", "other stage", "other key"],
)
def test_what_the_webhook_did_not_sign_gets_no_link(node: Node, pod: str, config: dict[str, Any], message: str) -> None:
    answer = node.call("ADD", pod, config)

    assert (answer.status, answer.output["code"]) == (1, 105)
    assert message in answer.output["msg"]
    assert lab.host_links() == []
    assert [link["ifname"] for link in show("link", pod=pod)] == ["lo"]
    assert node.call("DEL", pod, config).status == 0


def test_a_drain_id_of_another_pod_is_refused_until_that_pod_has_no_link(node: Node, pod: str) -> None:
    copy = {"CNI_ARGS": "K8S_POD_NAMESPACE=telco;K8S_POD_NAME=copy;K8S_POD_UID=11111111-1111-1111-1111-111111111111"}
    with lab.namespace("copy") as second:
        node.call("ADD", pod)

        refused = node.call("ADD", second, container="copy", env=copy)
        node.call("DEL", pod)
        accepted = node.call("ADD", second, container="copy", env=copy)

        assert (refused.status, refused.output["code"]) == (1, 106)
        assert f"which is that of pod {lab.POD_UID} on this node" in refused.output["msg"]
        assert accepted.status == 0, accepted.output


def test_a_transparent_function_gets_an_interface_without_addresses_and_without_ipam(node: Node, pod: str) -> None:
    config = configuration() | {"ipam": {"type": "not-installed"}}

    answer = node.call("ADD", pod, config)

    assert answer.status == 0, answer.output
    assert answer.output["ips"] == []
    assert addresses(pod) == set()


def test_replicas_with_the_same_address_and_mac_come_up_on_one_node(node: Node, pod: str) -> None:
    config = configuration(ips=["10.1.0.2/24", "2001:db8:1::2/64"])

    with lab.namespace("replica") as replica:
        answers = [node.call("ADD", pod, config), node.call("ADD", replica, config, container="c0ffee2")]

        assert [a.status for a in answers] == [0, 0]
        assert addresses(pod) == addresses(replica) == {"10.1.0.2/24", "2001:db8:1::2/64"}


def test_a_chain_route_goes_before_the_pods_default_route_and_leaves_it_in_place(node: Node, pod: str) -> None:
    lab.run("ip", "-n", pod, "link", "add", "eth0", "type", "veth", "peer", "name", "up0")
    for end in ("eth0", "up0"):
        lab.run("ip", "-n", pod, "link", "set", end, "up")
    for family, prefix in (("-4", "192.0.2."), ("-6", "2001:db8:9::")):
        lab.run(
            "ip",
            family,
            "-n",
            pod,
            "address",
            "add",
            f"{prefix}2/64" if ":" in prefix else f"{prefix}2/24",
            "dev",
            "eth0",
            *(("nodad",) if ":" in prefix else ()),
        )
        lab.run("ip", family, "-n", pod, "route", "add", "default", "via", f"{prefix}1")
    config = configuration(
        ips=["10.1.0.2/24", "2001:db8:1::2/64"],
        routes=[{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "2001:db8:1::1"}],
    )

    answer = node.call("ADD", pod, config)

    assert answer.status == 0, answer.output
    assert show("route", "get", "198.51.100.1", pod=pod)[0]["gateway"] == "10.1.0.1"
    assert show("-6", "route", "get", "2001:db8:ff::1", pod=pod)[0]["gateway"] == "2001:db8:1::1"
    node.call("DEL", pod, config)
    assert show("route", "get", "198.51.100.1", pod=pod)[0]["gateway"] == "192.0.2.1"
    assert show("-6", "route", "get", "2001:db8:ff::1", pod=pod)[0]["gateway"] == "2001:db8:9::1"


def local_ports(pod: str) -> str:
    return lab.run("ip", "netns", "exec", pod, "cat", "/proc/sys/net/ipv4/ip_local_port_range").strip()


def test_sockets_of_a_pod_keep_to_the_source_ports_it_was_given_and_others_do_not(node: Node, pod: str) -> None:
    before = local_ports(pod)

    with lab.namespace("sliced") as sliced:
        answer = node.call("ADD", sliced, configuration(ips=["10.1.0.2/24"], source_ports="5056-9087"))
        node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]), container="c0ffee2")
        with lab.inside(sliced), socket.socket() as one:
            one.bind(("10.1.0.2", 0))
            port = one.getsockname()[1]

        assert answer.status == 0, answer.output
        assert local_ports(sliced) == "5056\t9087"
        assert 5056 <= port <= 9087
        assert local_ports(pod) == before != "5056\t9087"


def test_add_says_when_the_pod_reserves_the_ports_it_should_use(node: Node, pod: str) -> None:
    lab.run("ip", "netns", "exec", pod, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=2000")

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"], source_ports="1024-5055"))

    assert (answer.status, answer.output["code"]) == (1, 101)
    assert answer.output["msg"] == (
        "sfc: interface 'net1' of pod telco/nat-0: cannot limit the pod's source ports to 1024-5055: Invalid argument "
        "(does the pod raise the sysctl net.ipv4.ip_unprivileged_port_start beyond them?)"
    )
    assert lab.host_links() == []


def test_check_finds_source_ports_that_somebody_changed(node: Node, pod: str) -> None:
    config = configuration(ips=["10.1.0.2/24"], source_ports="1024-5055")
    result = node.call("ADD", pod, config).output
    lab.run("ip", "netns", "exec", pod, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")

    answer = node.call("CHECK", pod, config | {"prevResult": result})

    assert answer.output["code"] == 103
    assert "the range of source ports is 1024-65535, not 1024-5055" in answer.output["msg"]


def test_del_removes_the_link_and_may_come_twice(node: Node, pod: str) -> None:
    config = configuration(ips=["10.1.0.2/24"])
    node.call("ADD", pod, config)

    answers = [node.call("DEL", pod, config), node.call("DEL", pod, config)]

    assert [(a.status, a.output) for a in answers] == [(0, {}), (0, {})]
    assert lab.host_links() == []


@pytest.mark.parametrize("gone", ["", "/run/netns/sfcc-never-existed"])
def test_del_without_a_namespace_removes_the_link(node: Node, pod: str, gone: str) -> None:
    node.call("ADD", pod)

    answer = node.call("DEL", None, env={"CNI_NETNS": gone})

    assert answer.status == 0
    assert lab.host_links() == []


def test_del_succeeds_after_the_namespace_took_the_link_with_it(node: Node) -> None:
    with lab.namespace("short") as short:
        node.call("ADD", short)

    answer = node.call("DEL", None)

    assert answer.status == 0


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"cniVersion": "9.9"}', '{"runtimeConfig": {"ips": ["10.1.0.2/24"]}, "ipam": {"type": "absent"}}'],
)
def test_del_succeeds_with_a_configuration_that_add_refuses(node: Node, pod: str, config: str) -> None:
    assert node.call("ADD", pod, config).status == 1

    answer = node.call("DEL", pod, config)

    assert answer.status == 0, answer.output


def test_a_repeated_add_replaces_what_a_crashed_one_left(node: Node, pod: str) -> None:
    node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]))

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.3/24"]))

    assert answer.status == 0, answer.output
    assert addresses(pod) == {"10.1.0.3/24"}
    assert len(node.links.list()) == 1


def test_add_refuses_an_interface_name_that_the_pod_already_has(node: Node, pod: str) -> None:
    lab.run("ip", "-n", pod, "link", "add", "net1", "type", "veth", "peer", "name", "other")

    answer = node.call("ADD", pod)

    assert answer.status == 1
    assert answer.output["code"] == 100
    assert answer.output["msg"] == (
        "sfc: pod telco/nat-0 already has an interface 'net1': "
        "give the interface of stage 'nat' in chain 'edge' another name"
    )
    assert lab.host_links() == []
    assert len(show("link", "show", "dev", "net1", pod=pod)) == 1


def test_add_passes_on_the_refusal_of_the_ipam_plugin_and_leaves_nothing(node: Node, pod: str, ipam: Path) -> None:
    put(ipam, "static", '#!/bin/sh\necho \'{"code": 11, "msg": "pool is empty", "details": "d"}\'; exit 1\n')

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]))

    assert answer.status == 1
    assert (answer.output["code"], answer.output["msg"]) == (11, "sfc: IPAM plugin 'static': pool is empty")
    assert lab.host_links() == []


def test_add_that_fails_after_ipam_gives_the_addresses_back(node: Node, pod: str, ipam: Path) -> None:
    put(
        ipam,
        "static",
        f'#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >>{ipam}/calls\n'
        'echo \'{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}\'\n',
    )
    unreachable = configuration(ips=["10.1.0.2/24"], routes=[{"dst": "10.9.0.0/16", "gw": "10.8.0.1"}])

    answer = node.call("ADD", pod, unreachable)

    assert answer.status == 1
    assert answer.output["code"] == 101
    assert answer.output["msg"] == (
        "sfc: interface 'net1' of pod telco/nat-0: cannot add route to 10.9.0.0/16 via 10.8.0.1: "
        "Nexthop has invalid gateway"
    )
    assert (ipam / "calls").read_text().splitlines() == ["ADD c0ffee net1", "DEL c0ffee net1"]
    assert lab.host_links() == []
    assert [link["ifname"] for link in show("link", pod=pod)] == ["lo"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            'echo \'{"ips": [{"address": "10.1.0.2"}]}\'',
            'IPAM result: ips[0] is "10.1.0.2": give an address with prefix',
        ),
        ("echo '{\"ips\": [{}]}'", "IPAM result: ips[0] is null: give an address with prefix"),
        ("echo no JSON", "IPAM plugin 'static' ended with status 0 and no CNI answer"),
        ("exit 3", "IPAM plugin 'static' ended with status 3 and no CNI answer"),
    ],
)
def test_add_refuses_what_an_ipam_plugin_should_not_answer(
    node: Node, pod: str, ipam: Path, script: str, message: str
) -> None:
    put(ipam, "static", f"#!/bin/sh\n{script}\n")

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]))

    assert answer.status == 1
    assert message in answer.output["msg"]
    assert lab.host_links() == []


def test_add_says_when_an_ipam_plugin_cannot_be_run(node: Node, pod: str, ipam: Path) -> None:
    put(ipam, "static", "", mode=0o644)

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]))

    assert answer.output["msg"] == f"sfc: IPAM plugin '{ipam}/static' cannot be run: Permission denied"


def test_add_says_when_the_ipam_plugin_is_not_installed_and_del_succeeds(node: Node, pod: str, ipam: Path) -> None:
    (ipam / "static").unlink()

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]))

    assert answer.output["msg"] == (
        f"sfc: IPAM plugin 'static' is not in '{ipam}': install it there, or start the agent with --ipam"
    )
    assert node.call("DEL", pod, configuration(ips=["10.1.0.2/24"])).status == 0


@pytest.mark.parametrize("name", ["sfc", "host-local", "evil"])
def test_no_program_runs_but_the_one_ipam_plugin_that_is_known(node: Node, pod: str, ipam: Path, name: str) -> None:
    """Whoever may create a NetworkAttachmentDefinition chooses `ipam.type`, and the agent would run it as root."""
    put(ipam, name, f"#!/bin/sh\ntouch {ipam}/it-ran\necho '{{}}'\n")
    config = configuration(ips=["10.1.0.2/24"]) | {"ipam": {"type": name}}

    add, check, delete = (node.call(command, pod, config, env={"CNI_PATH": str(ipam)}) for command in COMMANDS)

    message = f'sfc: ipam.type is "{name}": give static; the agent runs no other IPAM plugin'
    assert (add.output["msg"], check.output["msg"], delete.status) == (message, message, 0)
    assert not (ipam / "it-ran").exists()


def test_the_call_does_not_choose_where_the_ipam_plugin_comes_from(node: Node, pod: str, tmp_path: Path) -> None:
    put(tmp_path, "static", f"#!/bin/sh\ntouch {tmp_path}/it-ran\necho '{{}}'\n")

    answer = node.call("ADD", pod, configuration(ips=["10.1.0.2/24"]), env={"CNI_PATH": str(tmp_path)})

    assert answer.status == 0, answer.output
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_without_a_namespace_the_pod_cannot_be_reached(node: Node, command: str) -> None:
    answer = node.call(command, None, env={"CNI_NETNS": "/run/netns/sfcc-never-existed"})

    assert answer.status == 1
    assert answer.output["code"] == 4
    assert "CNI_NETNS is '/run/netns/sfcc-never-existed'" in answer.output["msg"]


def test_a_file_that_is_no_network_namespace_is_refused(node: Node) -> None:
    answer = node.call("ADD", None, env={"CNI_NETNS": "/proc/self/ns/mnt"})

    assert (answer.status, answer.output["code"]) == (1, 4)


def test_check_is_content_with_what_add_made(node: Node, pod: str) -> None:
    config = configuration(
        ips=["10.1.0.2/24", "2001:db8:1::2/64"],
        mtu=1400,
        routes=[{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "2001:db8:2::/48"}, {"dst": "10.7.0.0/16"}],
    )
    result = node.call("ADD", pod, config).output

    answer = node.call("CHECK", pod, config | {"prevResult": result})

    assert (answer.status, answer.output) == (0, {})


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("address del 10.1.0.2/24 dev net1", "address 10.1.0.2/24 is missing"),
        ("link set net1 address 02:00:00:00:00:99", f"MAC is 02:00:00:00:00:99, not {MAC}"),
        ("link set net1 mtu 1300", "MTU is 1300, not 1400"),
        ("link set net1 down", "interface 'net1' is down"),
        ("route del 10.2.0.0/16", "route to 10.2.0.0/16 via 10.1.0.1 is missing"),
        ("link del net1", "is missing"),
    ],
)
def test_check_says_what_is_not_as_add_made_it(node: Node, pod: str, damage: str, problem: str) -> None:
    config = configuration(ips=["10.1.0.2/24"], mtu=1400, routes=[{"dst": "10.2.0.0/16", "gw": "10.1.0.1"}])
    result = node.call("ADD", pod, config).output
    lab.run("ip", "-n", pod, *damage.split())

    answer = node.call("CHECK", pod, config | {"prevResult": result})

    assert (answer.status, answer.output["code"]) == (1, 103)
    assert problem in answer.output["msg"]


def test_version_lists_what_is_spoken(node: Node) -> None:
    answer = node.call("VERSION", None, {"cniVersion": "0.4.0"})

    assert answer.output == {"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


def test_concurrent_adds_get_distinct_slots(node: Node) -> None:
    with ExitStack() as pods, ThreadPoolExecutor(12) as pool:
        names = [pods.enter_context(lab.namespace(f"many{i}")) for i in range(12)]

        answers = list(pool.map(lambda i: node.call("ADD", names[i], container=f"many{i}"), range(12)))

        assert [a.status for a in answers] == [0] * 12
        assert len({link.slot for link in node.links.list()}) == 12
        assert all(link.filter_slot == link.slot for link in node.links.list())


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ("", 6, "not JSON"),
        ("\x00\xff", 6, "not JSON"),
        ("[" * 100_000, 6, "not JSON"),
        ("[]", 6, "the network configuration is a list: give an object"),
        ({"cniVersion": "0.1.0"}, 1, "cniVersion is '0.1.0': use one of 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (configuration(ips=["10.1.0.2"]), 7, 'runtimeConfig.ips[0] is "10.1.0.2": give an address with prefix'),
        (configuration(mac=""), 7, "runtimeConfig.mac is missing: give the NetworkAttachmentDefinition"),
        ("x" * (1 << 20), 5, "longer than 1 MiB"),
    ],
)
def test_a_bad_configuration_is_refused_with_its_reason(
    node: Node, pod: str, config: dict[str, Any] | str, code: int, message: str
) -> None:
    answer = node.call("ADD", pod, config)

    assert (answer.status, answer.output["code"]) == (1, code)
    assert message in answer.output["msg"]
    assert lab.host_links() == []


def test_a_configuration_of_the_greatest_size_is_served(node: Node, pod: str) -> None:
    padding = (1 << 20) - 2048

    answer = node.call("ADD", pod, configuration() | {"padding": "x" * padding})

    assert answer.status == 0, answer.output


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SFC1",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!4sII", b"SFC1", 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack("!4sII", b"SFC1", 1 << 20, 1),
        struct.pack("!4sII", b"SFC1", 10, 10) + b"short",
        struct.pack("!4sII", b"SFC2", 0, 0),
    ],
)
def test_whatever_else_connects_gets_no_answer_and_does_no_harm(node: Node, pod: str, sent: bytes) -> None:
    node.call("ADD", pod)
    before = lab.descriptors()

    with socket.socket(socket.AF_UNIX) as stranger, suppress(ConnectionResetError):
        stranger.settimeout(60)
        answer = b""
        stranger.connect(str(node.socket))
        with Path("/etc/hostname").open() as some_file:
            socket.send_fds(stranger, [sent], [some_file.fileno()] * 3) if sent else None
        stranger.shutdown(socket.SHUT_WR)
        answer = stranger.recv(100)

    assert answer == b""
    assert node.call("ADD", pod).status == 0
    assert lab.settles(lambda: not lab.descriptors() - before)


def test_only_root_is_served(node: Node) -> None:
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "os.chdir(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "s.connect('cni.sock')\n"
        "try: print(s.recv(100))\n"
        "except ConnectionResetError: print(b'')\n"
    )
    node.socket.chmod(0o777)
    node.socket.parent.chmod(0o755)

    shown = lab.run("/usr/bin/python3", "-c", script, str(node.socket.parent))

    assert shown.strip() == "b''"


def test_the_socket_is_for_root_alone(node: Node) -> None:
    assert node.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["ADD", "CHECK", "VERSION"])
@pytest.mark.parametrize("stale", [False, True])
def test_without_an_agent_a_call_is_to_be_tried_again(
    plugin: Path, address: Path, pod: str, command: str, stale: bool
) -> None:
    address.parent.mkdir(exist_ok=True)
    if stale:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(address))

    answer = lab.call_plugin(plugin, {"CNI_COMMAND": command, "CNI_NETNS": f"/run/netns/{pod}"}, configuration())

    address.unlink(missing_ok=True)
    assert (answer.status, answer.output["code"]) == (1, 11)
    assert "kubectl -n sfc-system get pods" in answer.output["msg"]
    assert str(address) in answer.output["details"]


def test_without_an_agent_del_succeeds(plugin: Path) -> None:
    answer = lab.call_plugin(plugin, {"CNI_COMMAND": "DEL"}, configuration())

    assert (answer.status, answer.output) == (0, {})


@pytest.mark.parametrize("reply", [None, b"", b"\0\0\0\0", struct.pack("!II", 0, 99) + b"half", b"\xff" * 8])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_an_agent_that_falls_silent_means_to_try_again(
    plugin: Path, address: Path, command: str, reply: bytes | None
) -> None:
    address.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        done = threading.Event()

        def agent() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 20)
                if reply is None:
                    done.wait(10)
                else:
                    connection.sendall(reply)

        thread = threading.Thread(target=agent)
        thread.start()
        answer = lab.call_plugin(plugin, {"CNI_COMMAND": command}, "{}")
        done.set()
        thread.join()
    address.unlink()

    assert (answer.status, answer.output["code"]) == (1, 11)
    assert "does not answer" in answer.output["msg"]


def test_a_call_that_trickles_in_is_put_together_and_its_answer_comes_in_pieces(plugin: Path, address: Path) -> None:
    address.parent.mkdir(exist_ok=True)
    output = b'{"some": "answer"}'
    received = bytearray()

    def agent(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while b"}" not in received:
                received.extend(connection.recv(3))
            for byte in struct.pack("!II", 7, len(output)) + output:
                connection.sendall(bytes([byte]))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        thread = threading.Thread(target=agent, args=(listener,))
        thread.start()
        process = subprocess.Popen([plugin], env={"CNI_COMMAND": "ADD", "OTHER": "x"}, stdin=-1, stdout=-1)
        assert process.stdin
        process.stdin.write(b'{"half":')
        process.stdin.flush()
        process.stdin.write(b"1}")
        shown, _ = process.communicate()
        thread.join()
    address.unlink()

    assert (process.returncode, json.loads(shown)) == (7, {"some": "answer"})
    assert bytes(received) == struct.pack("!4sII", b"SFC1", 16, 10) + b"CNI_COMMAND=ADD\0" + b'{"half":1}'


def test_a_new_agent_takes_over_the_socket_and_the_old_one_does_not_take_it_away(node: Node, pod: str) -> None:
    old = CniServer(node.socket, node.wiring)
    old.start()
    new = CniServer(node.socket, node.wiring)
    new.start()

    old.stop()

    assert node.call("ADD", pod).status == 0
    new.stop()
    assert not node.socket.exists()


def test_five_hundred_adds_and_dels_leak_neither_descriptors_nor_threads(node: Node, pod: str) -> None:
    with lab.opened(pod) as netns:
        environment = {"CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "net1", "CNI_NETNS": "x", "CNI_PATH": lab.CNI_PATH}
        environment["CNI_ARGS"] = "K8S_POD_NAMESPACE=telco"
        call = Call(environment, json.dumps(signed(configuration(), "telco", "net1")).encode(), netns)

        def life() -> None:
            with ThreadPoolExecutor(1) as fresh_thread:
                fresh_thread.submit(node.wiring.add, addition_of(call)).result()
                fresh_thread.submit(node.wiring.delete, attachment_of(call)).result()

        life()
        before = lab.held()
        for _ in range(500):
            life()

        assert lab.held() - before == set()
