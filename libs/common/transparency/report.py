"""The integrity part of a compliance report, checked without the log's server.

A report names the signed checkpoint that it was made from, an earlier one, and the proof that the
earlier tree is a prefix of the later. Who keeps one report can so check the next against it.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.transparency.note import Checkpoint, Verify
from libs.common.transparency.policy import Policy
from libs.common.transparency.tree import VerificationError, verify_consistency

FORMAT = "gatehouse-compliance/1"


class NoProofError(Exception):
    """The report carries no proof from that checkpoint, so nothing can be said about it."""


def verify_report(
    report: Mapping[str, Any], policy: Policy, verify: Verify, *, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """Check the checkpoint of a report and that it extends the earlier one, and what was kept.

    Args:
        report: the report's JSON.
        policy: whom to trust; an earlier checkpoint needs the log's signature alone.
        verify: checks one Ed25519 signature.
        kept: signed checkpoints that were kept elsewhere, such as those of former reports.

    Returns:
        Sizes of the log at this report and at the earlier checkpoint.

    Raises:
        VerificationError: a signature or the proof does not hold, or a kept checkpoint contradicts.
        NoProofError: a kept checkpoint is neither of this report's two, or members are missing.
    """
    try:
        integrity = report["integrity"]
        note, previous, to_index = (
            integrity["checkpoint"],
            integrity["previous"],
            report["to_index"],
        )
        proof = [
            base64.b64decode(line, validate=True) for line in (previous or {}).get("proof", ())
        ]
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError):
        raise NoProofError("the report's integrity part cannot be read") from None
    if not isinstance(note, str):
        raise NoProofError("the report was made before the log's first checkpoint")
    log_alone = Policy(policy.log)
    checkpoint = policy.checkpoint_of(note, verify)
    if to_index > checkpoint.size:
        raise VerificationError(
            "the report counts events that its checkpoint does not cover",
            expected=checkpoint.size,
            found=to_index,
            index=checkpoint.size,
        )
    known = [checkpoint]
    if previous:
        earlier = log_alone.checkpoint_of(previous["checkpoint"], verify)
        verify_consistency(earlier.size, checkpoint.size, earlier.root, checkpoint.root, proof)
        known.append(earlier)
    for text in kept:
        _compare(log_alone.checkpoint_of(text, verify), known)
    return {
        "log_size": checkpoint.size,
        "extends_size": known[-1].size if previous else None,
        "kept_checkpoints": len(kept),
    }


def _compare(kept: Checkpoint, known: Sequence[Checkpoint]) -> None:
    for ours in known:
        if ours.size == kept.size:
            if ours.root != kept.root:
                raise VerificationError(
                    "the log is not the one whose checkpoint was kept",
                    expected=kept.root,
                    found=ours.root,
                    index=kept.size,
                )
            return
    raise NoProofError(
        f"the report proves nothing about size {kept.size}: ask for it with "
        f"?previous_size={kept.size}"
    )
