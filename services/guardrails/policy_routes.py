"""Routes of policies: drafts under If-Match, immutable versions, the tenant's pointer."""

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.context import current
from libs.common.errors import BadRequestError, InvalidInputError, UnavailableError
from libs.common.events.envelope import event_for_request
from services.guardrails.adapters.postgres_policies import PostgresPolicies, StoredPolicy
from services.guardrails.checker import Checker
from services.guardrails.domain.guard import Ask, Outcome
from services.guardrails.domain.params import ParamsError
from services.guardrails.domain.policy import POLICY_ID_PATTERN, PolicyBody
from services.guardrails.domain.verdict import Decision
from services.guardrails.schemas import BATCH_TEXTS_MAX, Text, decision_out

router = APIRouter(prefix="/v1/guardrails/policies", tags=["policies"])
PolicyId = Annotated[str, Path(pattern=POLICY_ID_PATTERN)]


class CreatePolicy(BaseModel):
    """A new policy."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=POLICY_ID_PATTERN)
    draft: PolicyBody


class Activate(BaseModel):
    """The version that the tenant's checks shall use."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=99_999_999)


VersionName = Annotated[str, Field(pattern="^(draft|[1-9][0-9]{0,7})$")]
SampleTexts = Annotated[list[Text], Field(min_length=1, max_length=BATCH_TEXTS_MAX)]


class DryRun(BaseModel):
    """Texts to try a version on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: SampleTexts
    version: VersionName = "draft"


class Diff(BaseModel):
    """Texts to compare two versions on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: SampleTexts
    from_version: VersionName = Field(alias="from")
    to_version: VersionName = Field(default="draft", alias="to")


@router.get("", summary="List policies")
async def list_policies(request: Request) -> dict[str, Any]:
    """List the tenant's policies."""
    stored = await _store(request).list(_tenant())
    return {"items": [_shape(item) for item in stored], "next": None}


@router.post("", status_code=201, summary="Create a policy with a draft")
async def create_policy(body: CreatePolicy, request: Request, response: Response) -> dict[str, Any]:
    """Create a policy; nothing uses its draft until it is published."""
    _check_rules(request, body.draft, "/draft")
    stored = await _store(request).create(_tenant(), body.id, body.draft)
    response.headers["etag"] = f'"{stored.revision}"'
    return _shape(stored)


@router.get("/{policy_id}", summary="Read a policy and its draft")
async def read_policy(policy_id: PolicyId, request: Request, response: Response) -> dict[str, Any]:
    """Read one policy; the ETag is the draft's revision."""
    stored = await _store(request).get(_tenant(), policy_id)
    response.headers["etag"] = f'"{stored.revision}"'
    return _shape(stored)


@router.put("/{policy_id}/draft", summary="Replace the draft")
async def edit_draft(
    policy_id: PolicyId,
    body: PolicyBody,
    request: Request,
    response: Response,
    if_match: Annotated[str, Header()],
) -> dict[str, Any]:
    """Replace the draft if it is still the one the caller read."""
    revision = if_match.strip().strip('"')
    if not revision.isdigit():
        raise BadRequestError("If-Match must be the ETag of the draft.")
    _check_rules(request, body, "")
    stored = await _store(request).edit(_tenant(), policy_id, body, int(revision))
    response.headers["etag"] = f'"{stored.revision}"'
    return _shape(stored)


@router.get("/{policy_id}/versions/{version}", summary="Read a published version")
async def read_version(
    policy_id: PolicyId, version: Annotated[int, Path(ge=1)], request: Request
) -> dict[str, Any]:
    """Read one immutable version."""
    policy = await _store(request).resolve(_tenant(), f"{policy_id}@{version}")
    return {"id": policy.id, "version": version, "body": policy.body.model_dump(mode="json")}


@router.post("/{policy_id}/publish", status_code=201, summary="Freeze the draft as a version")
async def publish(policy_id: PolicyId, request: Request) -> dict[str, Any]:
    """Publish; the new epoch is in Redis before the answer, so no stale verdict follows."""
    caller = current().caller
    version, epoch = await _store(request).publish(
        _tenant(), policy_id, caller.principal if caller else ""
    )
    await _announce(request, epoch, policy_id, str(version), "published", None)
    return {"id": policy_id, "version": version}


@router.post("/{policy_id}/activate", summary="Point the tenant at a version")
async def activate(policy_id: PolicyId, body: Activate, request: Request) -> dict[str, Any]:
    """Make a version the tenant's active one; a rollback is activating the former."""
    before, epoch = await _store(request).activate(_tenant(), policy_id, body.version)
    await _announce(request, epoch, policy_id, str(body.version), "activated", before)
    return {"id": policy_id, "version": body.version, "previous": before}


@router.post("/{policy_id}/dry-run", summary="Try a version or the draft on texts")
async def dry_run(policy_id: PolicyId, body: DryRun, request: Request) -> dict[str, Any]:
    """Decide about texts as a version would; nothing is recorded, cached or rolled out."""
    outcome = await _try(request, policy_id, body.version, body.texts)
    return {
        "policy": policy_id,
        "version": outcome.policy.version,
        "results": [
            {
                name: value
                for name, value in decision_out(outcome, decision, "", 0.0).items()
                if name not in {"id", "latency_ms"}
            }
            for decision in outcome.decisions
        ],
    }


@router.post("/{policy_id}/diff", summary="Compare two versions on texts")
async def diff(policy_id: PolicyId, body: Diff, request: Request) -> dict[str, Any]:
    """Give where two versions decide differently, and how many texts change from what to what."""
    before = await _try(request, policy_id, body.from_version, body.texts)
    after = await _try(request, policy_id, body.to_version, body.texts)
    changes = [
        {
            "index": index,
            "from": _summary(old),
            "to": _summary(new),
        }
        for index, (old, new) in enumerate(zip(before.decisions, after.decisions, strict=True))
        if _summary(old) != _summary(new)
    ]
    pairs = Counter(
        (old.action.value, new.action.value)
        for old, new in zip(before.decisions, after.decisions, strict=True)
    )
    return {
        "policy": policy_id,
        "from": body.from_version,
        "to": body.to_version,
        "texts": len(body.texts),
        "changed": len(changes),
        "actions": [
            {"from": old, "to": new, "count": count} for (old, new), count in sorted(pairs.items())
        ],
        "changes": changes,
    }


async def _try(request: Request, policy_id: str, version: str, texts: list[str]) -> Outcome:
    checker: Checker = request.state.checker
    checker.refuse_long(texts, [f"/texts/{index}" for index in range(len(texts))])
    ask = Ask(tenant=_tenant(), policy=f"{policy_id}@{version}", remaining_s=current().remaining_s)
    return await checker.guard.check(texts, ask)


def _summary(decision: Decision) -> dict[str, Any]:
    """Say what a decision is, without the text."""
    return {
        "action": decision.action.value,
        "labels": sorted({label for verdict in decision.verdicts for label in verdict.labels}),
        "spans": sorted(
            (span.start, span.end, span.label)
            for verdict in decision.verdicts
            for span in verdict.spans
        ),
    }


async def _announce(
    request: Request, epoch: int, policy_id: str, version: str, what: str, before: str | None
) -> None:
    await request.state.cache.mirror_epoch(_tenant(), epoch)
    caller = current().caller
    await request.state.platform.events.emit(
        event_for_request(
            "policy.changed",
            "guardrails",
            "required",
            {
                "what": what,
                "policy": policy_id,
                "version": version,
                "from": before,
                "to": f"{policy_id}@{version}",
                "by": caller.principal if caller else "",
            },
        )
    )


def _check_rules(request: Request, body: PolicyBody, pointer: str) -> None:
    """Refuse a draft whose validators or parameters this service does not know."""
    known = request.state.checker.guard.validators
    owner = request.state.plugins.registry.owner
    for index, rule in enumerate(body.validators):
        at = f"{pointer}/validators/{index}"
        if rule.name not in known or owner(rule.name) not in {None, _tenant()}:
            raise InvalidInputError.field(f"{at}/name", "is not a validator of this service")
        try:
            known[rule.name].parse(rule.params)
        except ParamsError as error:
            raise InvalidInputError.field(f"{at}/params{error.pointer}", str(error)) from None


def _store(request: Request) -> PostgresPolicies:
    policies = request.state.checker.guard.policies.source
    if not isinstance(policies, PostgresPolicies):
        raise UnavailableError("Policies need a database.", hint="Set POSTGRES_URL.")
    return policies


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


def _shape(stored: StoredPolicy) -> dict[str, Any]:
    return {
        "id": stored.id,
        "draft": stored.draft.model_dump(mode="json"),
        "revision": stored.revision,
        "latest_version": stored.latest,
        "active_version": stored.active_version,
    }
