"""The texts for a pod whose labels name a chain or a stage that does not exist. Every component uses these."""

from __future__ import annotations

from sfc import names
from sfc.chain import Chain
from sfc.validation.problem import bare, shown

NO_CHAIN = "NoChain"
"""Reason of the condition of a pod whose chain does not exist, or is not valid."""
NO_STAGE = "NoStage"
"""Reason of the condition of a pod whose chain has no such stage."""


def chain(namespace: str, name: str) -> str:
    """The text for a chain that does not exist, or that was never valid; without a full stop."""
    return (
        f"{names.CHAIN_KIND} {namespace}/{name}, named by label {names.CHAIN_LABEL}, does not exist or is not valid; "
        "create it, or correct it, or correct the label"
    )


def stage(of: Chain, name: str) -> str:
    """The text for a stage that the chain does not have; without a full stop."""
    has = ", ".join(bare(stage.name) for stage in of.stages)
    return (
        f"{names.CHAIN_KIND} {of.namespace}/{of.name} has no stage {shown(name)}, named by label {names.STAGE_LABEL} "
        f"(its stages: {has}); add the stage, or correct the label"
    )
