"""Who is given a link: an addition that the webhook signed, and nobody else. What the others are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certs.signing import Signer
from controller.node.cni.answer import CniError, Code
from controller.node.cni.reading import addition_of
from controller.node.cni.statements import Statements
from tests.statements import SIGNER, accepted, signed
from tests.unit.test_cni_reading import ENVIRONMENT, call, configuration

STRANGER = Signer(bytes([7]) * 32)
LABEL = "label its workload with sfc.dev/chain and sfc.dev/stage, and the webhook asks for the network"


def check(folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None) -> None:
    Statements(accepted(folder)).check(addition_of(call(config, environment)))


def refusal(folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(CniError) as refused:
        check(folder, config, environment)
    assert refused.value.code == Code.NOT_SIGNED
    return refused.value.message


def good(**changes: Any) -> dict[str, Any]:
    return signed(configuration(**changes), "telco", "outside")


def in_namespace(namespace: str) -> dict[str, str]:
    return {"CNI_ARGS": ENVIRONMENT["CNI_ARGS"].replace("=telco", f"={namespace}")}


def test_what_the_webhook_signed_is_accepted(tmp_path: Path) -> None:
    check(tmp_path, good())
    check(tmp_path, good(runtimeConfig__ips=[]))
    check(tmp_path, json.loads(json.dumps(good(), sort_keys=True)))


def test_source_ports_that_came_later_are_accepted(tmp_path: Path) -> None:
    config = good()
    config["args"]["cni"]["sourcePorts"] = "1024-5055"

    check(tmp_path, config)


def test_a_key_that_came_later_is_accepted(tmp_path: Path) -> None:
    statements, config = Statements(accepted(tmp_path)), signed(configuration(), "telco", "outside", STRANGER)
    with pytest.raises(CniError):
        statements.check(addition_of(call(config)))

    accepted(tmp_path, STRANGER)

    statements.check(addition_of(call(config)))
    statements.check(addition_of(call(good())))


def test_who_writes_the_network_by_hand_is_told_to_label_the_workload(tmp_path: Path) -> None:
    """`k8s.v1.cni.cncf.io/networks: sfc@outside`: Multus passes on neither a MAC nor arguments."""
    by_hand = {"cniVersion": "1.0.0", "name": "sfc", "type": "sfc", "ipam": {"type": "static"}}

    said = refusal(tmp_path, by_hand)

    assert said.startswith("pod telco/nat-0 asks for the network 'sfc' without a signature of the webhook: ")
    assert LABEL in said
    assert "capabilities" not in said


def test_a_replica_of_the_version_before_is_told_to_be_deleted(tmp_path: Path) -> None:
    before = configuration()
    del before["args"]["cni"]["signature"]

    assert refusal(tmp_path, before).endswith(
        "a replica from before an upgrade: delete the pod, its workload makes another"
    )


def test_a_statement_counts_in_its_own_namespace_alone(tmp_path: Path) -> None:
    said = refusal(tmp_path, good(), in_namespace("attacker"))

    assert said.startswith(
        "pod attacker/nat-0, interface 'outside': K8S_POD_NAMESPACE is \"attacker\", but the webhook signed namespace "
        '"telco": '
    )
    assert "label the pod's own workload with sfc.dev/chain and sfc.dev/stage" in said


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"runtimeConfig__ips": ["10.1.0.9/24"]}, "runtimeConfig.ips"),
        ({"runtimeConfig__ips": ["2001:db8::2/64", "10.1.0.3/24"]}, "runtimeConfig.ips"),
        ({"runtimeConfig__ips": []}, "runtimeConfig.ips"),
        ({"runtimeConfig__mac": "02:5f:c0:00:00:02"}, "runtimeConfig.mac"),
    ],
)
def test_what_the_call_has_otherwise_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    arguments = good()["args"]

    assert f"interface 'outside': {field} is " in refusal(tmp_path, configuration(**change) | {"args": arguments})


def test_what_the_call_writes_in_another_way_is_as_it_was_signed(tmp_path: Path) -> None:
    asked = good()
    asked["runtimeConfig"] = {"ips": ["2001:DB8:0::2/64", "10.1.0.2/24"], "mac": "02:5F:c0:00:00:01"}

    check(tmp_path, asked)


def test_a_statement_is_for_one_interface(tmp_path: Path) -> None:
    said = refusal(tmp_path, good(), {"CNI_IFNAME": "inside"})

    assert 'interface \'inside\': CNI_IFNAME is "inside", but the webhook signed interface "outside"' in said


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "server"},
        {"chain": "core"},
        {"chainUid": "another"},
        {"mtu": 1401},
        {"routes": []},
        {"drainId": "f" * 32},
        {"namespace": "attacker"},
        {"more": 1},
    ],
)
def test_a_statement_that_was_changed_is_no_statement(tmp_path: Path, change: dict[str, Any]) -> None:
    config = good()
    config["args"]["cni"] |= change

    assert "args.cni is not what the webhook signed" in refusal(tmp_path, config, in_namespace("telco"))


def test_a_key_that_the_node_does_not_accept_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, signed(configuration(), "telco", "outside", STRANGER))

    assert f"signed with key {STRANGER.key_id}, which this node does not accept" in said
    assert said.endswith("delete it, and its workload makes another")


@pytest.mark.parametrize("signature", ["x", "../../../etc/passwd.x", f"{SIGNER.key_id}.", f"{'0' * 16}.{'A' * 87}"])
def test_what_is_no_signature_is_refused(tmp_path: Path, signature: str) -> None:
    config = good()
    config["args"]["cni"]["signature"] = signature

    assert f"args.cni.signature is {signature!r}, not a signature" in refusal(tmp_path, config)


def test_a_pod_with_two_names_is_refused() -> None:
    arguments = f"{ENVIRONMENT['CNI_ARGS']};K8S_POD_NAMESPACE=other"

    with pytest.raises(CniError) as refused:
        addition_of(call(good(), {"CNI_ARGS": arguments}))

    assert refused.value.message == "K8S_POD_NAMESPACE in CNI_ARGS is both 'telco' and 'other': give one value"
