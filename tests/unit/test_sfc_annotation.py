"""The network annotation: our elements in it, and merging them with the pod's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfc import annotation
from sfc.annotation import NOT_YET, AnnotationError, merge, ours, read, with_source_ports
from sfc.reading import chain_of
from sfc.source_ports import PortRange
from sfc.validation.checks import parse
from tests.statements import SIGNER
from tests.unit import largest, objects

MINE = [{"name": "sfc", "namespace": "telco", "interface": "inside", "mac": "02:00:00:00:00:01"}]


def test_our_elements_follow_the_stages_interfaces() -> None:
    obj = objects.chain()
    lan = obj["spec"]["stages"][0]["interfaces"][0]
    lan |= {
        "mtu": 1450,
        "mac": "02:AA:00:00:00:01",
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16"}],
    }
    chain = chain_of(obj)

    elements = ours(chain, chain.stages[0], "d1", lambda _: "signed")

    assert elements == [
        {
            "name": "sfc",
            "namespace": "telco",
            "interface": "lan",
            "ips": ["10.1.0.2/24"],
            "mac": "02:aa:00:00:00:01",
            "cni-args": {
                "namespace": "telco",
                "chain": "edge",
                "chainUid": "chain-1",
                "stage": "client",
                "interface": "lan",
                "mac": "02:aa:00:00:00:01",
                "drainId": "d1",
                "addresses": ["10.1.0.2/24"],
                "mtu": 1450,
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16"}],
                "signature": "signed",
            },
        }
    ]


def test_an_interface_without_addresses_asks_for_none() -> None:
    chain = chain_of(objects.chain())

    elements = ours(chain, chain.stages[1], "d1", lambda _: "signed")

    assert [(e["interface"], "ips" in e, "addresses" in e["cni-args"]) for e in elements] == [
        ("left", False, False),
        ("right", False, False),
    ]


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (None, []),
        ("", []),
        ("  ", []),
        ("storage", [{"name": "storage"}]),
        ("ns/storage@fast0, other", [{"namespace": "ns", "name": "storage", "interface": "fast0"}, {"name": "other"}]),
        ('[{"name":"a","ips":["10.0.0.1/8"]}]', [{"name": "a", "ips": ["10.0.0.1/8"]}]),
        ('{"name":"a"}', [{"name": "a"}]),
        (
            " ns / storage @ fast0 ,other@",
            [{"namespace": "ns", "name": "storage", "interface": "fast0"}, {"name": "other"}],
        ),
        ("/a", [{"name": "a"}]),
        ("a" * 253, [{"name": "a" * 253}]),
        (
            '[{"name":"a","mac":"0200.5e10.0001","ips":["10.0.0.1","::1/64"],"namespace":null,"of-the-future":7}]',
            [
                {
                    "name": "a",
                    "mac": "0200.5e10.0001",
                    "ips": ["10.0.0.1", "::1/64"],
                    "namespace": None,
                    "of-the-future": 7,
                }
            ],
        ),
    ],
)
def test_both_syntaxes_are_read(text: str | None, elements: list[object]) -> None:
    assert read(text) == elements


@pytest.mark.parametrize(
    "text",
    [
        *("a,,b", "a/b/c", "a@b@c", "A", "a.b", "-a", "a@sixteen--letters", "a@b c", "a b", "@b", "n.s/a"),
        *(
            "[1]",
            "[{}]",
            '[{"name":1}]',
            '[{"name":""}]',
            "[null]",
            "[",
            '"a"',
            '[{"name":"a","x":NaN}]',
            '[{"a":1e999}]',
        ),
        *('[{"name":"a","interface":7}]', '[{"name":"a","ips":"10.0.0.1/8"}]', '[{"name":"a","ips":["10.0.0.0.1"]}]'),
        *('[{"name":"a","mac":"02:00"}]', '[{"name":"a","cni-args":[]}]', '[{"name":"a","default-route":"10.0.0.1"}]'),
        *(7, ["a"], "a" * 300_000),
    ],
)
def test_what_multus_cannot_read_is_an_error(text: object) -> None:
    with pytest.raises(AnnotationError):
        read(text)


def test_ours_come_after_the_pods_own() -> None:
    merged = merge("storage", MINE, "telco")

    assert json.loads(merged) == [{"name": "storage"}, *MINE]


def test_merging_again_changes_not_even_the_text() -> None:
    text = json.dumps([*MINE, {"name": "added-later"}], indent=2)

    assert merge(text, MINE, "telco") == text


@pytest.mark.parametrize("namespace", [{}, {"namespace": "telco"}])
def test_older_elements_of_ours_are_replaced(namespace: dict[str, str]) -> None:
    stale = [{"name": "sfc", **namespace, "interface": "gone"}, {"name": "storage"}]

    assert json.loads(merge(json.dumps(stale), MINE, "telco")) == [{"name": "storage"}, *MINE]


def test_a_network_of_the_same_name_in_another_namespace_is_the_pods_own() -> None:
    merged = merge("other/sfc@x0", MINE, "telco")

    assert json.loads(merged) == [{"namespace": "other", "name": "sfc", "interface": "x0"}, *MINE]


def test_an_interface_name_taken_by_the_pods_own_network_is_an_error_with_remedy() -> None:
    with pytest.raises(AnnotationError, match="rename the stage's"):
        merge("storage@inside", MINE, "telco")


def test_the_name_multus_gives_to_an_unnamed_interface_is_taken_too() -> None:
    mine = [{**MINE[0], "interface": "net2"}]

    assert merge("a", mine, "telco")
    with pytest.raises(AnnotationError, match='"net2"'):
        merge("a,b", mine, "telco")


@pytest.mark.parametrize(
    ("element", "remedy"),
    [
        ({"name": "other/n6-net"}, 'write namespace and name apart: {"name": "n6-net", "namespace": "other"}'),
        ({"name": "a/b/c"}, "write a name as Kubernetes allows it"),
        ({"name": "n6-net@lan"}, 'write name and interface apart: {"name": "n6-net", "interface": "lan"}'),
        ({"name": "N6"}, "write a name as Kubernetes allows it"),
        ({"name": "a" * 254}, "write a name as Kubernetes allows it"),
        ({"name": "a", "namespace": "n.s"}, "write a name as Kubernetes allows it"),
        ({"name": "a", "namespace": "other/b"}, "write a name as Kubernetes allows it"),
        ({"name": "a", "interface": "sixteen--letters"}, "write 1 to 15 characters without space, '/' and ':'"),
        ({"name": "a", "interface": "a b"}, "write 1 to 15 characters without space, '/' and ':'"),
        ({"name": "a", "interface": "a:1"}, "write 1 to 15 characters without space, '/' and ':'"),
        ({"name": "a", "interface": ".."}, "write 1 to 15 characters without space, '/' and ':'"),
        ({"name": "a", "interfaceRequest": "a/b"}, "write 1 to 15 characters without space, '/' and ':'"),
        ({"name": "a", "ips": ["10.0.0.1/255.0.0.0"]}, "write it as 10.1.0.2/24"),
        ({"name": "a", "ips": ["fe80::1%eth0/64"]}, "write it as 10.1.0.2/24"),
        ({"name": "a", "ips": [None]}, "write it as 10.1.0.2/24"),
        ({"name": "a", "default-route": ["10.0.0.1/24"]}, "write it as 10.1.0.1"),
        ({"name": "a", "default-route": [7]}, "write it as 10.1.0.1"),
        ({"name": "a", "infiniband-guid": "c2"}, "write it as 02:00:5e:10:00:01"),
        ({"name": "a", "portMappings": [{"hostPort": "80"}]}, "portMappings[0].hostPort must be a whole number"),
        (
            {"name": "a", "portMappings": [{"containerPort": 80.5}]},
            "portMappings[0].containerPort must be a whole number",
        ),
        ({"name": "a", "portMappings": [{"protocol": 6}]}, "portMappings[0].protocol must be a string"),
        ({"name": "a", "portMappings": [{"hostIP": []}]}, "portMappings[0].hostIP must be a string"),
        ({"name": "a", "portMappings": [80]}, "portMappings[0] must be an object"),
        ({"name": "a", "bandwidth": {"ingressRate": "1M"}}, "bandwidth.ingressRate must be a whole number"),
        ({"name": "a", "bandwidth": {"egressBurst": True}}, "bandwidth.egressBurst must be a whole number"),
    ],
)
def test_every_field_that_multus_refuses_is_refused_with_its_remedy(element: dict[str, object], remedy: str) -> None:
    with pytest.raises(AnnotationError) as refused:
        read(json.dumps([{"name": "first"}, element]))

    assert "element 1" in str(refused.value)
    assert remedy in str(refused.value)


def test_every_field_that_multus_reads_is_read() -> None:
    element = {
        "name": "n6.net-1",
        "namespace": "other",
        "interface": "lan.1@2",
        "ips": ["10.1.0.2/24", "10.1.0.3", "fd00::1/64"],
        "mac": "02-00-5e-10-00-01",
        "infiniband-guid": "c2:11:22:33:44:55:66:77",
        "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": None}],
        "bandwidth": {"ingressRate": 1000, "of-the-future": "1"},
        "default-route": ["10.1.0.1", "fd00::2"],
    }

    assert read(json.dumps([element])) == [element]


@pytest.mark.parametrize("text", ["a:1", ".", "a@a:1", "a@..", "a@."])
def test_the_short_syntax_has_the_same_rules_for_interfaces(text: str) -> None:
    with pytest.raises(AnnotationError):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a@x0,b@x0", 'networks "a" and "b" take the same interface name "x0"'),
        ("a@net2,b", 'networks "a" and "b" take the same interface name "net2"'),
        ("a@eth0", 'network "a" takes the interface name "eth0", the cluster\'s own interface'),
        ("a@lo", 'network "a" takes the interface name "lo", the loopback interface'),
    ],
)
def test_interface_names_that_multus_finds_taken_are_refused(text: str, words: str) -> None:
    with pytest.raises(AnnotationError) as refused:
        merge(text, MINE, "telco")

    assert words in str(refused.value)
    assert "(@interface)" in str(refused.value)


@given(st.none() | st.text() | st.text(alphabet='[]{}":,/@ab0 ') | st.integers())
def test_any_value_is_merged_idempotently_or_an_annotation_error(text: object) -> None:
    try:
        once = merge(text, MINE, "telco")
    except AnnotationError:
        return

    assert merge(once, MINE, "telco") == once


def test_an_interface_with_slices_waits_for_source_ports_and_gets_them() -> None:
    obj = objects.chain()
    obj["spec"]["stages"][2]["interfaces"][1]["sourcePorts"] = {"slices": 16}
    chain = chain_of(obj)
    text = merge("other", ours(chain, chain.stages[2], "d1", lambda _: "signed"), "telco")

    filled = with_source_ports(text, "telco", PortRange(1024, 5055))
    without = with_source_ports(text, "telco", None)

    assert [e.get("cni-args", {}).get("sourcePorts") for e in read(text)] == [None, None, NOT_YET]
    assert [e.get("cni-args", {}).get("sourcePorts") for e in read(filled)] == [None, None, "1024-5055"]
    assert "sourcePorts" not in without
    assert [e["name"] for e in read(without)] == ["other", "sfc", "sfc"]


def test_the_largest_stages_annotation_is_read_at_every_change_of_its_pod_and_a_larger_one_is_not() -> None:
    of = parse(largest.chain(2, 8, 8, 32))
    mine = annotation.merge(None, annotation.ours(of, of.stages[1], "d" * 40, SIGNER.sign), "telco")
    many = json.dumps([{"name": "n"}] * 2000)
    more = annotation.merge(many, annotation.ours(of, of.stages[1], "d", SIGNER.sign), "telco")

    assert len(annotation.interfaces(mine, "telco")) == 8
    assert annotation.interfaces(more, "telco") == frozenset()
    assert annotation.interfaces("sfc@lan," * 40_000, "telco") == frozenset()
