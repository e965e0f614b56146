"""How attachments and additions are read from CNI calls, and how a bad call is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.node.cni.answer import CniError, Code, add_result
from controller.node.cni.attachment import Addition, IpamPlugin
from controller.node.cni.call import Call
from controller.node.cni.reading import addition_of, attachment_of
from controller.node.cni.server import perform
from sfc.chain import Interface, Route
from sfc.source_ports import PortRange

DRAIN_ID = "0123456789abcdef0123456789abcdef"
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "outside",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "IgnoreUnknown=true;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=nat-0;K8S_POD_UID=;K8S_POD_UID=u-1;MAC=x",
}


def configuration(**changes: Any) -> dict[str, Any]:
    """Changes are dotted paths with `__` for the dot; None removes the field."""
    config: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "sfc",
        "type": "sfc",
        "ipam": {"type": "static"},
        "runtimeConfig": {"ips": ["10.1.0.2/24", "2001:db8::2/64"], "mac": "02:5F:C0:00:00:01"},
        "args": {
            "cni": {
                "chain": "edge",
                "stage": "nat",
                "drainId": DRAIN_ID,
                "signature": "0123456789abcdef.x",
                "mtu": 1400,
                "routes": [{"dst": "10.2.0.0/16", "gw": "10.1.0.1"}, {"dst": "::/0"}],
            }
        },
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        target = config
        for step in steps:
            target = target[step]
        target[last] = value
    return config


def call(config: Any, environment: dict[str, str] | None = None) -> Call:
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    return Call(ENVIRONMENT | (environment or {}), data, netns=5)


def addition(config: Any, environment: dict[str, str] | None = None) -> Addition:
    return addition_of(call(config, environment))


def test_an_addition_says_what_multus_passed_on() -> None:
    asked = addition(configuration())

    assert asked.interface == Interface(
        name="outside",
        mac="02:5f:c0:00:00:01",
        addresses=("10.1.0.2/24", "2001:db8::2/64"),
        mtu=1400,
        routes=(Route("10.2.0.0/16", "10.1.0.1"), Route("::/0")),
    )
    pod = asked.attachment.pod
    assert (pod.namespace, pod.name, pod.uid) == ("telco", "nat-0", "u-1")
    assert (asked.chain, asked.stage, asked.drain_id) == ("edge", "nat", DRAIN_ID)
    assert (asked.version, asked.netns, asked.sandbox) == ("1.0.0", 5, "/run/netns/pod")
    assert (asked.attachment.container_id, asked.attachment.interface_name) == ("c0ffee", "outside")
    assert asked.attachment.ipam == IpamPlugin("static", call(configuration()))


def test_without_addresses_no_ipam_plugin_is_asked() -> None:
    asked = addition(configuration(runtimeConfig__ips=[]))

    assert asked.attachment.ipam is None
    assert asked.interface.addresses == ()


def test_a_runtime_that_does_not_pass_the_uid_leaves_it_empty() -> None:
    asked = addition(configuration(), {"CNI_ARGS": "K8S_POD_NAMESPACE=telco;K8S_POD_NAME=nat-0"})

    assert asked.attachment.pod.uid == ""


def test_mtu_routes_and_source_ports_may_be_left_out() -> None:
    asked = addition(configuration(args__cni__mtu=None, args__cni__routes=None))

    assert (asked.interface.mtu, asked.interface.routes, asked.source_ports) == (None, (), None)


def test_an_addition_says_which_source_ports_the_pod_was_given() -> None:
    asked = addition(configuration(args__cni__sourcePorts="1024-5055"))

    assert asked.source_ports == PortRange(1024, 5055)


def test_the_host_end_is_named_alike_for_the_same_attachment_and_differently_for_another() -> None:
    names = [
        addition(configuration(), changed).attachment.host_name
        for changed in ({}, {}, {"CNI_IFNAME": "inside"}, {"CNI_CONTAINERID": "other"})
    ]

    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {15}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_result_has_the_version_of_the_configuration(version: str) -> None:
    asked = addition(configuration(cniVersion=version))

    result = add_result(asked, "06:00:00:00:00:01", asked.interface, {})

    assert result["cniVersion"] == version


def test_the_result_keeps_what_the_ipam_plugin_said_of_an_address() -> None:
    asked = addition(configuration())
    ipam = {"ips": [{"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"}], "dns": {"domain": "d"}}

    result = add_result(asked, "06:00:00:00:00:01", asked.interface, ipam)

    assert result["ips"] == [{"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}]
    assert result["routes"] == [{"dst": "10.2.0.0/16", "gw": "10.1.0.1"}, {"dst": "::/0"}]
    assert result["dns"] == {"domain": "d"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtimeConfig__ips": ["10.1.0.2"]}, 'runtimeConfig.ips[0] is "10.1.0.2": give an address with prefix'),
        ({"runtimeConfig__ips": ["10.1.0.2/24", 7]}, "runtimeConfig.ips[1] is 7: give an address with prefix"),
        ({"runtimeConfig__ips": "10.1.0.2/24"}, 'runtimeConfig.ips is "10.1.0.2/24": give a value of type list'),
        ({"runtimeConfig__mac": None}, "runtimeConfig.mac is missing: give the NetworkAttachmentDefinition"),
        ({"runtimeConfig__mac": "01:00:00:00:00:01"}, "give a unicast MAC"),
        ({"runtimeConfig": []}, "runtimeConfig is []: give an object"),
        ({"ipam": None}, 'ipam.type is "": give static; the agent runs no other IPAM plugin'),
        (
            {"ipam__type": "../../bin/sh"},
            'ipam.type is "../../bin/sh": give static; the agent',
        ),
        ({"args__cni__mtu": 1279}, "args.cni.mtu is 1279: give 1280 to 65535 bytes"),
        ({"args__cni__mtu": True}, "args.cni.mtu is true: give a value of type int"),
        ({"args__cni__drainId": "a b"}, 'args.cni.drainId is "a b": only the sfc webhook gives it'),
        ({"args__cni__drainId": None}, 'args.cni.drainId is "": only the sfc webhook gives it'),
        ({"args__cni__routes": [{"dst": "10.2.0.1/16"}]}, 'args.cni.routes[0].dst is "10.2.0.1/16": give a prefix'),
        ({"args__cni__routes": [{}]}, 'args.cni.routes[0].dst is "": give a prefix'),
        ({"args__cni__routes": ["10.2.0.0/16"]}, 'args.cni.routes[0] is "10.2.0.0/16": give an object'),
        (
            {"args__cni__routes": [{"dst": "10.2.0.0/16", "gw": "2001:db8::1"}]},
            'args.cni.routes[0].gw is "2001:db8::1": give an IPv4 address without prefix',
        ),
        ({"args__cni": 5}, "args.cni is 5: give an object"),
        ({"args__cni__sourcePorts": "80-90"}, 'args.cni.sourcePorts is "80-90": only the cluster controller gives it'),
        (
            {"args__cni__sourcePorts": ""},
            "pod telco/nat-0 has no source ports yet, but was scheduled: somebody removed its scheduling gate "
            "sfc.dev/source-ports; delete the pod",
        ),
    ],
)
def test_a_bad_field_is_refused_by_name_value_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CniError) as refused:
        addition(configuration(**change))

    assert refused.value.code == Code.INVALID_CONFIGURATION
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID is '': give letters, digits"),
        ({"CNI_CONTAINERID": "../x"}, "CNI_CONTAINERID is '../x'"),
        ({"CNI_IFNAME": "sixteencharacter"}, "CNI_IFNAME is 'sixteencharacter': give 1 to 15 ASCII characters"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME is '..'"),
        ({"CNI_IFNAME": "a b"}, "CNI_IFNAME is 'a b'"),
        ({"CNI_ARGS": "K8S_POD_UID=a b"}, "K8S_POD_UID in CNI_ARGS is 'a b': give the pod's UID"),
    ],
)
def test_a_bad_variable_is_refused_by_name_value_and_remedy(change: dict[str, str], message: str) -> None:
    with pytest.raises(CniError) as refused:
        addition(configuration(), change)

    assert refused.value.code == Code.INVALID_ENVIRONMENT
    assert message in refused.value.message


def test_a_deletion_needs_nothing_but_the_attachments_name() -> None:
    deletion = attachment_of(call(b"not JSON", {"CNI_NETNS": ""}))

    assert deletion.host_name == addition(configuration()).attachment.host_name
    assert deletion.ipam is None


def test_a_deletion_releases_addresses_where_there_were_some() -> None:
    asked = call(configuration())

    assert attachment_of(asked).ipam == IpamPlugin("static", asked)
    assert attachment_of(call(configuration(runtimeConfig__ips=None))).ipam is None


@pytest.mark.parametrize("command", ["", "add", "EXEC", "DEL\n"])
def test_an_unknown_command_is_refused(command: str) -> None:
    status, output = perform(call(configuration(), {"CNI_COMMAND": command}), wiring=None)  # type: ignore[arg-type]

    assert (status, output["code"]) == (1, Code.INVALID_ENVIRONMENT)
    assert output["msg"].endswith("use one of ADD, DEL, CHECK, VERSION, STATUS, GC")


@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_status_and_gc_succeed_without_output(command: str) -> None:
    assert perform(call({}, {"CNI_COMMAND": command}), wiring=None) == (0, {})  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
PATHS = ["cniVersion", "ipam", "ipam__type", "runtimeConfig", "runtimeConfig__ips", "runtimeConfig__mac", "args",
         "args__cni", "args__cni__mtu", "args__cni__routes", "args__cni__drainId", "args__cni__chain",
         "args__cni__sourcePorts"]  # fmt: skip


@given(path=st.sampled_from(PATHS), value=json_values, name=st.text(max_size=20))
def test_whatever_a_field_holds_the_answer_is_a_value_or_a_refusal(path: str, value: Any, name: str) -> None:
    asked = call(configuration(**{path: value}), {"CNI_IFNAME": name})

    with suppress(CniError):
        addition_of(asked)
    with suppress(CniError):
        attachment_of(asked)


@given(data=st.binary(max_size=200))
def test_whatever_bytes_come_the_answer_is_a_value_or_a_refusal(data: bytes) -> None:
    with pytest.raises(CniError):
        addition(data)
