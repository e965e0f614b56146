"""What a tenant with a namespace of its own can do to another one: nothing. Each test is an attack that once worked.

The victim is the example chain with traffic through it; the attacker has a namespace and a token of its own, and may
read the victim's pods.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import test_chain
from tests.cluster.conftest import Kubectl
from tests.cluster.tenants import Tenant, complete, serving, tenant
from tests.cluster.test_chain import scale

edge = test_chain.edge


@pytest.fixture
def victim(edge: Kubectl) -> Iterator[Kubectl]:
    """The example chain with two translators that serve."""
    scale(edge, "nat", 2)
    yield edge
    scale(edge, "nat", 1)


@pytest.fixture(scope="module")
def attacker(edge: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    with tenant(tmp_path_factory.mktemp("attacker"), reads=("telco",)) as found:
        yield found


# --- the tenants themselves -------------------------------------------------------------------------------------------


def test_a_tenant_has_rights_in_its_own_namespace_and_reads_the_victims_pods(victim: Kubectl, attacker: Tenant) -> None:
    with complete(victim):
        attacker.start(attacker.pod("idle"))
        seen = attacker.kubectl("get", "pods", "--namespace=telco", "-o", "name")
        refused = attacker.kubectl.try_("delete", "pods", "--namespace=telco", "--all")

    assert seen.count("pod/nat-") == 2
    assert "forbidden" in refused.stderr
    assert len(serving(victim, "nat")) == 2
