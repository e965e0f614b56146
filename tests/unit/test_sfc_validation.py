"""Validation of chains: each mistake gets its problem, with field, value and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfc.chain import Chain, Route
from sfc.reading import chain_of
from sfc.validation import update
from sfc.validation import warnings as of_chain
from sfc.validation.checks import InvalidChain, parse, problems
from sfc.validation.problem import Problem
from sfc.validation.update import Change, deletion_warnings
from tests.unit import objects

Spec = dict[str, Any]


def chain(change: Callable[[Spec], object] = lambda spec: None) -> dict[str, Any]:
    obj = objects.chain()
    change(obj["spec"])
    return obj


def warnings(obj: dict[str, Any]) -> tuple[str, ...]:
    return of_chain.warnings(chain_of(obj))


def update_problems(old: dict[str, Any], new: dict[str, Any]) -> tuple[Problem, ...]:
    return update.update_problems(Change.of(old, new))


def update_warnings(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
    return update.update_warnings(Change.of(old, new))


def interface(spec: Spec, stage: int, index: int) -> dict[str, Any]:
    return spec["stages"][stage]["interfaces"][index]


def nat_inside(**fields: Any) -> Callable[[Spec], object]:
    return lambda spec: interface(spec, 2, 0).update(fields)


def both_nat_interfaces(*slices: int) -> Callable[[Spec], object]:
    def change(spec: Spec) -> None:
        for i, number in enumerate(slices):
            interface(spec, 2, i)["sourcePorts"] = {"slices": number}

    return change


def keyed(chain_wide: Any, **of: str) -> Callable[[Spec], object]:
    """A session key for the chain, and others for interfaces: `firewall_left="addresses"`."""

    def change(spec: Spec) -> None:
        if chain_wide is not None:
            spec["sessionKey"] = chain_wide
        for end, key in of.items():
            stage, _, name = end.partition("_")
            interfaces = next(each["interfaces"] for each in spec["stages"] if each["name"] == stage)
            next(each for each in interfaces if each["name"] == name)["sessionKey"] = key

    return change


def stage(**fields: Any) -> Callable[[Spec], object]:
    return lambda spec: spec["stages"][2].update(fields)


def links(*pairs: Any) -> Callable[[Spec], object]:
    return lambda spec: spec.update(links=list(pairs))


def test_the_chain_of_the_design_has_no_problems() -> None:
    assert problems(objects.chain()) == ()
    assert warnings(objects.chain()) == ()
    assert isinstance(parse(objects.chain()), Chain)


INSIDE = "spec.stages[2].interfaces[0]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            stage(name="client"),
            'spec.stages[2].name: "client": is the name of spec.stages[0] already; give each stage its own name',
        ),
        (
            stage(name="NAT"),
            "spec.stages[2].name: \"NAT\": is not a name; use lower-case letters, digits and '-', with a letter or "
            "digit first and last",
        ),
        (
            stage(name="n" * 64),
            f'spec.stages[2].name: "{"n" * 64}": has 64 characters, 63 are allowed (it is used as a label\'s value); '
            "shorten it",
        ),
        (
            nat_inside(name="a-much-too-long-name"),
            f'{INSIDE}.name: "a-much-too-long-name": has 20 characters, the kernel allows 15; shorten it',
        ),
        (
            nat_inside(name="eth0"),
            f'{INSIDE}.name: "eth0": is the cluster\'s own interface in every pod; choose another name',
        ),
        (
            nat_inside(name="outside"),
            'spec.stages[2].interfaces[1].name: "outside": is the name of spec.stages[2].interfaces[0] already; '
            "give each interface of a stage its own name",
        ),
        (
            nat_inside(addresses=["10.1.0.1"]),
            f'{INSIDE}.addresses[0]: "10.1.0.1": has no prefix length; write 10.1.0.1/24, or whatever its network has',
        ),
        (
            nat_inside(addresses=["10.1.0.1/24", "2001:db8::1"]),
            f'{INSIDE}.addresses[1]: "2001:db8::1": has no prefix length; write 2001:db8::1/64, or whatever its '
            "network has",
        ),
        (
            nat_inside(addresses=["10.1.0.2/24"]),
            f'{INSIDE}.addresses[0]: "10.1.0.2/24": client.lan has this address already, on the same segment as '
            "nat.inside; only replicas of one stage share an address, give one of the two another",
        ),
        (
            nat_inside(addresses=["255.255.255.255/32"]),
            f'{INSIDE}.addresses[0]: "255.255.255.255/32": is not an address that an interface can have; give a '
            "unicast address",
        ),
        (
            nat_inside(addresses=["::ffff:10.1.0.1/120"]),
            f'{INSIDE}.addresses[0]: "::ffff:10.1.0.1/120": is not an address that an interface can have; give a '
            "unicast address",
        ),
        (
            nat_inside(addresses=["2001:db8::1/64"], mtu=1000),
            f"{INSIDE}.mtu: 1000: is too small for IPv6, which needs 1280 (RFC 8200); raise it, or remove the IPv6 "
            "addresses",
        ),
        (nat_inside(mtu=67), f"{INSIDE}.mtu: 67: is not an MTU; give bytes from 68 to 65535"),
        (
            nat_inside(mac="01:00:5e:00:00:01"),
            f'{INSIDE}.mac: "01:00:5e:00:00:01": is a multicast MAC (first byte is odd); give a unicast one, or leave '
            "mac out to have one derived",
        ),
        (
            nat_inside(routes=[{"dst": "10.9.0.0/16", "gw": "10.7.0.1"}]),
            f'{INSIDE}.routes[0].gw: "10.7.0.1": is not reachable: the interface has 10.1.0.0/24; give a gateway or an '
            "address of the same network",
        ),
        (
            nat_inside(routes=[{"dst": "10.9.0.1/16"}]),
            f'{INSIDE}.routes[0].dst: "10.9.0.1/16": has bits set beyond its prefix; write 10.9.0.0/16',
        ),
        (
            nat_inside(routes=[{"dst": "::/0", "gw": "10.1.0.9"}]),
            f'{INSIDE}.routes[0].gw: "10.1.0.9": is IPv4, its destination ::/0 is not; give both the same family',
        ),
        (
            nat_inside(routes=[{"dst": "fd51::/64"}, {"dst": "FD51:0::/64"}]),
            f'{INSIDE}.routes[1].dst: "FD51:0::/64": is the destination of {INSIDE}.routes[0] already; remove one of '
            "them",
        ),
        (
            nat_inside(routes=[{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}]),
            f'{INSIDE}.routes[1].dst: "10.9.0.0/16": is the destination of {INSIDE}.routes[0] already; remove '
            "one of them",
        ),
        (
            nat_inside(sourcePorts={"slices": 257}),
            f"{INSIDE}.sourcePorts.slices: 257: is not a number of slices; give 1 to 256, at least as many as the "
            "stage may have replicas",
        ),
        (
            nat_inside(sourcePorts={}),
            f"{INSIDE}.sourcePorts.slices: is required: into how many slices the source ports are divided, one for "
            "each replica, as 16",
        ),
        (
            stage(publishNotReadyAddresses="yes"),
            'spec.stages[2].publishNotReadyAddresses: "yes": is neither true nor false; give one of them, without '
            "quotes",
        ),
        (
            lambda spec: spec.update(trafficDistribution="PreferClose"),
            'spec.trafficDistribution: "PreferClose": is not supported; give PreferSameNode, so that new sessions stay '
            "on their node while it has serving replicas, or leave it out for an even spread over the replicas of all "
            "nodes",
        ),
        (
            nat_inside(rawFrames=1),
            f"{INSIDE}.rawFrames: 1: is neither true nor false; give one of them, without quotes",
        ),
        (nat_inside(sourcePorts=16), f"{INSIDE}.sourcePorts: 16: must be an object"),
        (
            both_nat_interfaces(8, 16),
            f"spec.stages[2].interfaces[1].sourcePorts.slices: 16: differs from {INSIDE}.sourcePorts.slices, which is "
            "8: a replica has one range of ports for all its interfaces; give both the same number",
        ),
        (
            lambda spec: spec["drain"].update(deadlineSeconds=3601),
            "spec.drain.deadlineSeconds: 3601: is not a deadline; give whole seconds from 0 to 3600",
        ),
        *(
            (
                lambda spec, value=value: spec["drain"].update(idle={"tcp": 600, "udp": value}),
                f"spec.drain.idle.udp: {json.dumps(value)}: is not a time that a session may be silent; give whole "
                "seconds from 1 to 86400",
            )
            for value in (0, -5, 86_401, 1.5, "60", None, True)
        ),
        (lambda spec: spec["drain"].update(idle=60), "spec.drain.idle: 60: must be an object"),
        (lambda spec: spec["drain"].update(idle=None), "spec.drain.idle: null: must be an object"),
        (
            stage(drain={"hook": "exec"}),
            'spec.stages[2].drain.hook: "exec": is not a drain hook; give one of auto, httpGet, sleep, none',
        ),
        (
            lambda spec: spec["drain"].update(atDeadline="drop"),
            'spec.drain.atDeadline: "drop": is not what the deadline can do with the sessions that are left; give one '
            "of move, reset",
        ),
        (
            lambda spec: spec["stages"][1]["interfaces"].pop(),
            "spec.stages[1].interfaces: the stage lies between two others but has one interface, which cannot be in "
            "two links; give it a second interface, or list the links in spec.links",
        ),
        (
            lambda spec: spec.update(stages=spec["stages"][:1]),
            "spec.stages: has 1 elements, needs 2 or more: the stages that traffic visits, in order",
        ),
        (
            nat_inside(name=None),
            f"{INSIDE}.name: null: is not an interface name; use lower-case letters, digits and "
            "'-', with a letter or digit first and last",
        ),
        (lambda spec: interface(spec, 2, 0).pop("name"), f"{INSIDE}.name: is required"),
        (
            stage(interfaces=[]),
            "spec.stages[2].interfaces: has 0 elements, needs 1 or more: the stage's data interfaces",
        ),
        (
            nat_inside(addresses=["10.1.0.1/33"]),
            f'{INSIDE}.addresses[0]: "10.1.0.1/33": is not an address with prefix length; write it as 10.1.0.1/24 or '
            "2001:db8::1/64",
        ),
        (nat_inside(addresses=[7]), f"{INSIDE}.addresses[0]: 7: must be a string, as 10.1.0.1/24"),
        (
            nat_inside(addresses=["10.1.0/24"]),
            f'{INSIDE}.addresses[0]: "10.1.0/24": is not an address with prefix length; write it as 10.1.0.1/24 or '
            "2001:db8::1/64",
        ),
        (
            nat_inside(addresses=["10.1.0.1/024"]),
            f'{INSIDE}.addresses[0]: "10.1.0.1/024": is not an address with prefix length; write it as 10.1.0.1/24 or '
            "2001:db8::1/64",
        ),
        (
            nat_inside(addresses=["127.0.0.1/8"]),
            f'{INSIDE}.addresses[0]: "127.0.0.1/8": cannot be the address of an interface; give a unicast address',
        ),
        (
            nat_inside(addresses=["0.0.0.0/0", "224.0.0.1/4"]),
            f'{INSIDE}.addresses[0]: "0.0.0.0/0": cannot be the address of an interface; give a unicast address',
        ),
        (
            nat_inside(addresses=["0.0.0.0/0", "224.0.0.1/4"]),
            f'{INSIDE}.addresses[1]: "224.0.0.1/4": cannot be the address of an interface; give a unicast address',
        ),
        (
            nat_inside(mac="02:00:00"),
            f'{INSIDE}.mac: "02:00:00": is not a MAC; write six bytes as 02:00:5e:10:00:01, or leave mac out to have '
            "one derived",
        ),
        (
            nat_inside(mac="00:00:00:00:00:00"),
            f'{INSIDE}.mac: "00:00:00:00:00:00": is the zero MAC; give another one, or leave mac out to have one '
            "derived",
        ),
        (
            lambda spec: interface(spec, 1, 0).update(routes=[{"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]),
            'spec.stages[1].interfaces[0].routes[0].gw: "10.1.0.9": is not reachable: the interface has no address at '
            "all; give a gateway or an address of the same network",
        ),
        (
            nat_inside(addresses=["10.1.0.1/24", "2001:db8::1/64"], routes=[{"dst": "::/0", "gw": "2001:db9::1"}]),
            f'{INSIDE}.routes[0].gw: "2001:db9::1": is not reachable: the interface has 10.1.0.0/24, 2001:db8::/64; '
            "give a gateway or an address of the same network",
        ),
        (nat_inside(routes=[{}]), f"{INSIDE}.routes[0].dst: is required: the destination, as 0.0.0.0/0"),
        (
            nat_inside(routes=[{"dst": "10.9.0.0"}]),
            f'{INSIDE}.routes[0].dst: "10.9.0.0": is not a destination; write it with prefix length, as 0.0.0.0/0 or '
            "10.2.0.0/16",
        ),
        (
            nat_inside(routes=[{"dst": 7, "gw": "10.1.0.9"}]),
            f"{INSIDE}.routes[0].dst: 7: is not a destination; write it with prefix length, as 0.0.0.0/0 or "
            "10.2.0.0/16",
        ),
        (
            nat_inside(routes=[{"dst": {}, "gw": "10.1.0.9"}]),
            f"{INSIDE}.routes[0].dst: is not a destination; write it with prefix length, as 0.0.0.0/0 or 10.2.0.0/16",
        ),
        (
            nat_inside(routes=[{"dst": "10.9.0.0/16", "gw": "10.1.0.9/24"}]),
            f'{INSIDE}.routes[0].gw: "10.1.0.9/24": is not a gateway; write an address without prefix, as 10.1.0.1',
        ),
        (
            nat_inside(routes=[{"dst": "10.9.0.0/16", "gw": "10.1.0.1"}]),
            f'{INSIDE}.routes[0].gw: "10.1.0.1": is the interface\'s own address; give the address of the next hop',
        ),
        (
            links(["client.lan", "router.in"], ["client.lan", "nat.inside"]),
            'spec.links[0][1]: "router.in": there is no stage "router"; the stages are client, firewall, nat, server',
        ),
        (
            keyed("subscriber"),
            'spec.sessionKey: "subscriber": is no session key; give one of flow, addresses, upstreamAddress, inner',
        ),
        (
            keyed({}),
            "spec.sessionKey: is no session key; give one of flow, addresses, upstreamAddress, inner",
        ),
        (
            nat_inside(sessionKey="port"),
            f'{INSIDE}.sessionKey: "port": is no session key; give one of flow, addresses, upstreamAddress, inner',
        ),
        (
            keyed(None, nat_outside="flow", server_wan="addresses"),
            'spec.stages[3].interfaces[0].sessionKey: "addresses": nat.outside has sessionKey flow, but both are ends '
            "of one link; give both the same, or leave one out",
        ),
        (
            keyed("upstreamAddress", firewall_right="flow"),
            "spec.stages[1].interfaces[1].sessionKey: the link of firewall.right goes by flow, another one of stage "
            '"firewall" by upstreamAddress (client.lan to firewall.left); the stage has no addresses, so it changes no '
            "packet, and the two directions of a session would reach two of its replicas; give all its links the same "
            "sessionKey",
        ),
        (
            lambda spec: (keyed("addresses")(spec), interface(spec, 2, 1).update(sourcePorts={"slices": 8})),
            "spec.stages[2].interfaces[1].sourcePorts: the link of nat.outside goes by addresses, which leaves ports "
            "out: replicas with ports of their own would still share one session, and answers would reach the wrong "
            "one; give this interface sessionKey flow, or remove its sourcePorts",
        ),
    ],
)
def test_a_mistake_is_reported_with_field_value_and_remedy(change: Callable[[Spec], object], message: str) -> None:
    found = [str(problem) for problem in problems(chain(change))]

    assert message in found


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [["client.lan", "nat.up"]],
            'spec.links[0][1]: "nat.up": stage "nat" has no interface "up"; it has inside, outside',
        ),
        (["ab"], 'spec.links[0]: "ab": must be two interfaces, as ["nat.outside", "server.wan"]'),
        ([["client.lan"]], 'spec.links[0]: must be two interfaces, as ["nat.outside", "server.wan"]'),
        ([["client", "nat.inside"]], 'spec.links[0][0]: "client": must be stage.interface, as nat.outside'),
        (
            [["nat.inside", "nat.outside"]],
            "spec.links[0]: nat.inside and nat.outside belong to the same stage; join two different stages",
        ),
        (
            [["client.lan", "nat.inside"], ["nat.inside", "server.wan"]],
            'spec.links[1][0]: "nat.inside": is in spec.links[0] already; an interface can be in one link only, add an '
            "interface to the stage",
        ),
        (
            [["firewall.left", "nat.inside"], ["firewall.right", "nat.outside"]],
            "spec.links[1]: firewall.right and nat.outside are joined already by other links, this one closes a loop; "
            "remove one",
        ),
        (
            [["client.lan", "nat.inside"], ["nat.outside", "server.wan"]],
            "spec.links: leave the chain in 2 parts (firewall; client, nat, server); add the links that join them, or "
            "leave links out",
        ),
    ],
)
def test_a_mistake_in_links_is_reported(pairs: list[Any], message: str) -> None:
    found = [str(problem) for problem in problems(chain(links(*pairs)))]

    assert message in found


@pytest.mark.parametrize(
    "change",
    [
        nat_inside(mtu=68),
        nat_inside(addresses=["10.1.0.1/24", "2001:db8::1/64"], mtu=1280),
        nat_inside(mac="02:AA:00:00:00:01"),
        nat_inside(routes=[{"dst": "::/0", "gw": "fe80::1"}]),
        nat_inside(routes=[{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]),
        nat_inside(rawFrames=True),
        stage(replicaNumbers=256),
        *(stage(drain={"atDeadline": way}) for way in ("move", "reset")),
        *(stage(drain={"hook": hook, "deadlineSeconds": 0}) for hook in ("auto", "httpGet", "sleep", "none")),
    ],
)
def test_what_is_at_a_limit_is_no_problem(change: Callable[[Spec], object]) -> None:
    assert problems(chain(change)) == ()


def test_interfaces_of_a_stage_share_its_number_of_slices() -> None:
    read = parse(chain(both_nat_interfaces(16, 16))).stage("nat")
    one = parse(chain(nat_inside(sourcePorts={"slices": 4}))).stage("nat")

    assert read and [i.slices for i in read.interfaces] == [16, 16]
    assert one and ([i.slices for i in one.interfaces], one.slices) == ([4, None], 4)


def test_one_mistake_is_one_problem() -> None:
    found = problems(chain(nat_inside(addresses=["10.1.0.2/24"])))

    assert [problem.field for problem in found] == ["spec.stages[2].interfaces[0].addresses[0]"]


def test_all_problems_are_reported_at_once() -> None:
    def spoil(spec: Spec) -> None:
        interface(spec, 0, 0)["addresses"] = ["10.1.0.1/24", "10.1.0.7"]
        interface(spec, 2, 0)["mtu"] = "1500"
        spec["stages"][3]["name"] = "client"
        spec["drain"] = None

    spoiled = chain(spoil)

    with pytest.raises(InvalidChain) as caught:
        parse(spoiled)

    assert [problem.field for problem in problems(spoiled)] == [
        "spec.drain",
        "spec.stages[0].interfaces[0].addresses[1]",
        "spec.stages[2].interfaces[0].mtu",
        "spec.stages[3].name",
        "spec.stages[2].interfaces[0].addresses[0]",
    ]
    assert str(caught.value).startswith("5 problems:\n- spec.drain: null: must be an object\n- ")


def test_a_message_lists_twenty_problems_and_counts_the_rest() -> None:
    spoiled = chain(nat_inside(routes=[{} for _ in range(25)]))

    with pytest.raises(InvalidChain) as caught:
        parse(spoiled)

    lines = str(caught.value).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("25 problems:", 22, "- … and 5 more")


def test_a_long_value_is_cut_in_the_message() -> None:
    (problem,) = problems(chain(nat_inside(mac="0" * 100)))

    assert str(problem).startswith(f'{INSIDE}.mac: "{"0" * 76}…: is not a MAC')


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (7, "object: 7: must be an object"),
        ({"metadata": {"namespace": "telco", "name": "edge"}}, "spec: is required"),
        ({"spec": {}}, "spec.stages: is required: the stages that traffic visits, in order"),
        ({"spec": {"stages": {}}}, "spec.stages: must be a list: the stages that traffic visits, in order"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_a_problem(obj: object, message: str) -> None:
    assert message in [str(problem) for problem in problems(obj)]


def test_the_same_address_on_two_segments_is_no_problem() -> None:
    obj = chain(lambda spec: interface(spec, 3, 0).update(addresses=["10.1.0.2/24"]))

    assert problems(obj) == ()


def test_a_mac_given_to_two_stages_of_one_segment_is_a_problem() -> None:
    def same(spec: Spec) -> None:
        interface(spec, 0, 0)["mac"] = "02:00:00:00:00:01"
        interface(spec, 2, 0)["mac"] = "02:00:00:00:00:01"

    assert [problem.field for problem in problems(chain(same))] == ["spec.stages[2].interfaces[0].mac"]


def test_ends_of_one_segment_without_a_common_family_are_a_problem() -> None:
    found = problems(chain(nat_inside(addresses=["2001:db8::1/64"])))

    assert [problem.field for problem in found] == [
        "spec.stages[0].interfaces[0].addresses",
        "spec.stages[2].interfaces[0].addresses",
    ]


@pytest.mark.parametrize(("amount", "allowed"), [(32, True), (33, False)])
def test_a_chain_has_at_most_32_stages(amount: int, allowed: bool) -> None:
    stages = [{"name": f"s{i}", "interfaces": [{"name": "a"}, {"name": "b"}]} for i in range(amount)]

    found = problems(chain(lambda spec: spec.update(stages=stages)))

    assert (found == ()) is allowed


def test_the_longest_legal_names_fit_into_a_cross_connections_name() -> None:
    stages = [{"name": c * 63, "interfaces": [{"name": "i" * 15}]} for c in "ab"]
    obj = {"metadata": {"namespace": "telco", "name": "c" * 63}, "spec": {"stages": stages}}

    assert problems(obj) == ()
    assert all(len(connection.name) <= 253 for connection in parse(obj).cross_connections)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            nat_inside(sourcePorts={"slices": 1}),
            'stage "nat" has one slice of source ports, so one replica at a time: a rolling update that adds a pod '
            "before it removes one (maxUnavailable 0) never ends; give two slices or more",
        ),
        (
            lambda spec: spec["stages"][3]["interfaces"].append({"name": "spare"}),
            "server.spare is in no link and will carry no traffic; add it to spec.links, or remove it",
        ),
        (
            nat_inside(addresses=["10.1.0.0/24"]),
            "nat.inside: 10.1.0.0/24 is the network's own or its broadcast address, which many systems do not answer; "
            "choose an address between them",
        ),
        (
            nat_inside(mtu=9000),
            "the ends of a link differ in MTU (firewall.right the default, nat.inside 9000): larger frames will be "
            "lost; give both the same",
        ),
        (
            nat_inside(addresses=["10.1.0.1/24", "198.51.0.1/16"]),
            'stage "nat": the networks of its interfaces inside (198.51.0.0/16) and outside (198.51.100.0/24) overlap, '
            "its replicas reach only one of them; give them different networks",
        ),
        (
            nat_inside(addresses=["10.2.0.1/24"]),
            "nat.inside (10.2.0.0/24) shares no network with the others of its segment; check the addresses",
        ),
    ],
)
def test_what_is_legal_but_probably_a_mistake_is_a_warning(change: Callable[[Spec], object], warning: str) -> None:
    obj = chain(change)

    assert warning in warnings(obj)
    assert all(len(text) <= 256 for text in warnings(obj))


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.1.0.1/24", "10.1.0.9/24"],
        ["10.1.0.1/24", "2001:db8::/64"],
        ["10.1.0.1/24", "10.1.0.4/31", "10.1.0.6/32"],
    ],
)
def test_addresses_of_one_interface_are_no_mistake(addresses: list[str]) -> None:
    assert warnings(chain(nat_inside(addresses=addresses))) == ()


def test_a_changed_stage_warns_that_running_pods_keep_what_they_have() -> None:
    new = chain(nat_inside(mtu=9000))

    found = update_warnings(objects.chain(), new)

    assert len(found) == 1
    assert found[0].startswith('stage "nat": running pods keep ')
    assert len(found[0]) <= 256
    assert update_warnings(new, new) == ()


def test_a_link_has_the_key_of_one_of_its_ends_or_that_of_the_chain() -> None:
    obj = chain(keyed("upstreamAddress", nat_outside="flow"))
    interface(obj["spec"], 2, 1)["sourcePorts"] = {"slices": 8}

    keys = [link.session_key for link in parse(obj).cross_connections]

    assert [*map(str, keys)] == ["upstreamAddress", "upstreamAddress", "flow"]
    assert [text for text in warnings(obj) if "goes by" in text or "go by" in text] == [
        "client.lan sends from its own addresses (no route of its segment leads through it), and its link goes by "
        "upstreamAddress: what two of its replicas open may be one session, and answers reach one of them; give the "
        "link sessionKey flow, unless the stage has one replica"
    ]
    nat_inside(routes=[{"dst": "100.64.0.0/10", "gw": "10.1.0.2"}])(obj["spec"])
    assert warnings(obj) == warnings(objects.chain())


def test_a_stage_between_two_keys_that_may_only_route_is_probably_a_mistake() -> None:
    found = warnings(chain(keyed(None, server_wan="addresses")))

    assert found[-1] == (
        'stage "nat" is between links that go by addresses and by flow: right if it translates addresses or ends '
        "connections (then give it sourcePorts); if it only routes, the two directions of a session reach two of its "
        "replicas, and all its links need the same sessionKey"
    )


def test_a_changed_session_key_warns_that_sessions_begin_anew_and_asks_for_no_restart() -> None:
    same = update_warnings(objects.chain(), objects.chain())
    new = chain(keyed(None, nat_outside="inner"))

    found = set(update_warnings(objects.chain(), new)) - set(same)

    assert found == {
        "the link from nat.outside to server.wan goes by inner instead of flow: its sessions begin anew within "
        "seconds, and may reach other replicas, which do not know their connections; change it while there is little "
        "traffic"
    }
    assert update_problems(objects.chain(), new) == update_problems(objects.chain(), objects.chain())


def test_running_pods_follow_a_changed_patience() -> None:
    new = chain(lambda spec: spec["drain"].update(idle={"tcp": 3600, "sctp": 1, "udp": 86_400, "other": 60}))

    assert problems(new) == ()
    assert update_warnings(objects.chain(), new) == update_warnings(objects.chain(), objects.chain())


def test_a_changed_drain_warns_of_every_stage_that_has_it() -> None:
    def change(spec: Spec) -> None:
        spec["stages"][2]["drain"] = {"deadlineSeconds": 30}
        spec["drain"]["deadlineSeconds"] = 60

    found = update_warnings(objects.chain(), chain(change))

    assert [text.partition(":")[0] for text in found] == ['stage "client"', 'stage "firewall"', 'stage "server"']
    assert "running pods keep the drain hook and grace period they were created with; restart" in found[0]


def with_replicas(obj: dict[str, Any], **counts: int) -> dict[str, Any]:
    stages = [{"name": name, "replicas": count, "serving": 0, "draining": 0} for name, count in counts.items()]
    return {**obj, "status": {"stages": stages}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (nat_inside(addresses=["10.1.0.3/24"]), "spec.stages[2].interfaces[0].addresses"),
        (nat_inside(addresses=["10.1.0.1/24", "10.1.0.3/24"]), "spec.stages[2].interfaces[0].addresses"),
        (nat_inside(addresses=[]), "spec.stages[2].interfaces[0].addresses"),
        (nat_inside(mac="02:00:00:00:00:07"), "spec.stages[2].interfaces[0].mac"),
    ],
)
def test_addresses_and_macs_cannot_change_while_a_stage_has_replicas(
    change: Callable[[Spec], object], field: str
) -> None:
    new = chain(change)

    assert update_problems(objects.chain(), new) == ()
    assert update_problems(with_replicas(objects.chain(), nat=0, client=3), new) == ()
    (problem,) = update_problems(with_replicas(objects.chain(), nat=2), new)
    assert problem.field == field
    assert 'while stage "nat" has replicas (2): they keep what they were created with' in str(problem)
    assert str(problem).endswith("scale its workload to 0 first, or give the stage another name")


def test_a_mac_that_is_written_out_as_it_was_derived_is_no_change() -> None:
    old = with_replicas(objects.chain(), nat=2)
    derived = parse(old).stages[2].interfaces[0].mac.upper()

    assert update_problems(old, chain(nat_inside(mac=derived))) == ()


def test_addresses_that_are_written_in_another_way_or_order_are_no_change() -> None:
    old = with_replicas(chain(nat_inside(addresses=["10.1.0.1/24", "fd50::1/64"])), nat=2)

    same = chain(nat_inside(addresses=["FD50:0::1/64", "10.1.0.1/24"]))

    assert update_problems(old, same) == ()
    assert not any("running pods keep" in text for text in update_warnings(old, same))
    assert update_problems(old, chain(nat_inside(addresses=["FD50:0::1/63", "10.1.0.1/24"])))


def test_what_is_written_in_another_way_or_order_is_no_change() -> None:
    """For every field of an interface: nobody has to restart anything."""

    def as_it_was(spec: Spec) -> None:
        links(["client.lan", "firewall.left"], ["firewall.right", "nat.inside"], ["nat.outside", "server.wan"])(spec)
        interface(spec, 2, 0).update(
            addresses=["10.1.0.1/24", "fd50::1/64"],
            mac="02:aa:00:00:00:07",
            routes=[{"dst": "10.9.0.0/16", "gw": "10.1.0.2"}, {"dst": "fd51::/64", "gw": "fd50::2"}],
        )

    def another_way(spec: Spec) -> None:
        as_it_was(spec)
        spec["links"].reverse()
        spec["stages"][1]["interfaces"].reverse()
        interface(spec, 2, 0).update(
            addresses=["FD50:0::1/64", "10.1.0.1/24"],
            mac="02:AA:00:00:00:07",
            mtu=1500,
            routes=[{"dst": "FD51:0:0::/64", "gw": "FD50::2"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.2"}],
        )

    old, new = with_replicas(chain(as_it_was), **EVERYBODY), chain(another_way)

    assert update_problems(old, new) == ()
    assert update_warnings(old, new) == ()
    assert warnings(new) == ()


def test_a_chain_has_one_way_to_write_an_address_whatever_its_object_has() -> None:
    written = chain(
        nat_inside(addresses=["10.1.0.1/24", "FD50:0::1/64"], routes=[{"dst": "FD51:0::/64", "gw": "FD50::2"}])
    )

    [inside, _] = parse(written).stages[2].interfaces

    assert inside.addresses == ("10.1.0.1/24", "fd50::1/64")
    assert inside.routes == (Route("fd51::/64", "fd50::2"),)


def test_a_stored_chain_that_is_not_valid_does_not_keep_its_correction_out() -> None:
    old = with_replicas(chain(nat_inside(mac="02")), nat=2)

    assert update_problems(old, objects.chain()) == ()
    assert update_warnings(old, objects.chain()) == ()


def test_whatever_else_changes_may_change_while_a_stage_has_replicas() -> None:
    def change(spec: Spec) -> None:
        spec["stages"][2]["name"] = "nat-2"
        interface(spec, 0, 0).update(mtu=1400, routes=[{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}])
        spec["stages"][1]["interfaces"].insert(1, {"name": "tap"})
        spec["drain"]["deadlineSeconds"] = 7

    assert update_problems(with_replicas(objects.chain(), client=1, firewall=1, nat=2, server=1), chain(change)) == ()


EVERYBODY = {"client": 1, "firewall": 2, "nat": 1, "server": 1}


def renamed(spec: Spec) -> None:
    interface(spec, 1, 0)["name"] = "lan0"


def appended(spec: Spec) -> None:
    """By default, a stage's last interface is linked."""
    spec["stages"][1]["interfaces"].append({"name": "tap"})


def swapped(spec: Spec) -> None:
    spec["stages"][1]["interfaces"].reverse()


def moved_to_another_stage(spec: Spec) -> None:
    spec["stages"][0]["interfaces"].append({"name": "lan1", "addresses": ["10.1.0.3/24"]})
    links(["client.lan", "firewall.left"], ["client.lan1", "nat.inside"], ["nat.outside", "server.wan"])(spec)


def renamed_as_its_neighbour_leaves(spec: Spec) -> None:
    interface(spec, 1, 1)["name"] = "out"
    spec["stages"][2]["name"] = "router"


@pytest.mark.parametrize(
    ("change", "interface_name", "other_end"),
    [
        (renamed, "left", "client.lan"),
        (appended, "right", "nat.inside"),
        (moved_to_another_stage, "right", "nat.inside"),
        (renamed_as_its_neighbour_leaves, "right", "nat.inside"),
    ],
)
def test_no_interface_of_running_replicas_leaves_its_link(
    change: Callable[[Spec], object], interface_name: str, other_end: str
) -> None:
    new = chain(change)

    assert update_problems(with_replicas(objects.chain(), **EVERYBODY | {"firewall": 0}), new) == ()
    assert [str(problem) for problem in update_problems(with_replicas(objects.chain(), **EVERYBODY), new)] == [
        f"spec.stages[1].interfaces: {interface_name} cannot leave its link with {other_end} while stage "
        '"firewall" has replicas (2): they keep the interfaces they were created with, and would get no traffic '
        "there; keep the interface in a link (spec.links), scale the stage's workload to 0 first, or give the stage "
        "another name"
    ]


def inserted(spec: Spec) -> None:
    spec["stages"].insert(2, {"name": "dpi", "interfaces": [{"name": "a"}, {"name": "b"}]})


def bypassed(spec: Spec) -> None:
    del spec["stages"][1]


def shortened(spec: Spec) -> None:
    del spec["stages"][3]


def linked_to_a_new_stage(spec: Spec) -> None:
    spec["stages"][1]["interfaces"].append({"name": "tap"})
    spec["stages"].append({"name": "monitor", "interfaces": [{"name": "in"}]})
    links(
        ["client.lan", "firewall.left"],
        ["firewall.right", "nat.inside"],
        ["nat.outside", "server.wan"],
        ["firewall.tap", "monitor.in"],
    )(spec)


@pytest.mark.parametrize("change", [inserted, bypassed, shortened, swapped, linked_to_a_new_stage])
def test_stages_come_and_go_while_others_have_replicas(change: Callable[[Spec], object]) -> None:
    new = chain(change)

    assert problems(new) == ()
    assert update_problems(with_replicas(objects.chain(), **EVERYBODY), new) == ()


def test_a_stage_that_leaves_with_replicas_and_one_without_any_are_warned_of() -> None:
    old = with_replicas(objects.chain(), client=1, firewall=1, nat=2, server=0)

    found = update_warnings(old, chain(stage(name="router")))

    assert found == (
        'stage "nat" leaves the chain with replicas (2): they lose their traffic at once, and new pods are refused; '
        "change the labels of their workload",
        'stage "router" has no replica, so that no traffic passes; label its workload sfc.dev/chain=edge '
        "sfc.dev/stage=router, or scale it up if it has them",
        'stage "server" has no replica, so that no traffic passes; label its workload sfc.dev/chain=edge '
        "sfc.dev/stage=server, or scale it up if it has them",
    )
    assert all(len(text) <= 256 for text in found)


def test_a_chain_that_is_deleted_with_replicas_is_warned_of() -> None:
    assert deletion_warnings(with_replicas(objects.chain(), client=0, nat=0)) == ()
    assert deletion_warnings(with_replicas(objects.chain(), client=1, nat=2)) == (
        'stages that still have replicas: "client" (1), "nat" (2). They lose their traffic at once, and new pods are '
        "refused; remove the labels sfc.dev/chain and sfc.dev/stage from their workloads",
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["nat", "nat.inside", "10.1.0.1", "10.1.0.1/24", "::1/64", "0.0.0.0/0", "a.b.c", "02:00:00:00:00:01"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "interfaces",
                    "addresses",
                    "mac",
                    "mtu",
                    "routes",
                    "dst",
                    "gw",
                    "drain",
                    "deadlineSeconds",
                    "atDeadline",
                    "idle",
                    "udp",
                    "sourcePorts",
                    "publishNotReadyAddresses",
                    "rawFrames",
                    "replicaNumbers",
                    "trafficDistribution",
                    "slices",
                    "links",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(json_values)
def test_no_json_value_makes_validation_raise(value: object) -> None:
    assert all(str(problem) for problem in problems(value))
    assert all(str(problem) for problem in problems({"metadata": value, "spec": value}))


@settings(max_examples=300)
@given(st.data())
def test_any_value_anywhere_in_a_chain_is_a_problem_or_a_chain(data: st.DataObject) -> None:
    obj = chain(links(["client.lan", "firewall.left"], ["firewall.right", "nat.inside"], ["nat.outside", "server.wan"]))
    interface(obj["spec"], 0, 0)["routes"] = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]
    place: Any = obj
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 5)) == 0:
            place[key] = data.draw(json_values)
            break
        place = place[key]

    found = problems(obj)

    if not found:
        assert isinstance(parse(obj), Chain)
        assert all(isinstance(text, str) for text in warnings(obj))
