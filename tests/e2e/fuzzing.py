"""Calls every route of the published description with generated input; the door must hold.

`python -m tests.e2e.fuzzing URL KEY_FILE [--examples 100] [--seed 1]` runs it longer against a
suite that is up. Routes that delete, erase, unload or rebuild are left out: the suite is shared.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

# What would change or empty the suite that other tests use.
_LEFT_OUT = (
    "/v1/admin", "/v1/auth", "/erasures", "/retention", "/legal-holds", "/keys", "/rebuild",
    "/load", "/unload", "/promote", "/rollback", "/reload", "/rollouts", "/aliases", "/console",
    "/cache", "/backfills", "/materialize", "/definitions", "/webhook", "/export", "/tile",
    "/docs", "/redoc", "/metrics/thresholds", "/reports/compliance", "/policies", "/plugins",
    "/rule", "/index",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A call whose answer breaks the contract."""

    operation: str
    status: int
    why: str
    curl: str


def operations(document: dict[str, Any], url: str) -> Iterator[Any]:
    """Give the operations that may be called at will."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr] # an Err here fails the test
        if operation.method.upper() == "DELETE":
            continue
        if not any(part in operation.path for part in _LEFT_OUT):
            yield operation


def explore(
    document: dict[str, Any], client: httpx2.Client, *, examples: int, first_seed: int = 1
) -> tuple[int, list[Finding]]:
    """Call each operation with generated input.

    Args:
        document: the OpenAPI document.
        client: with base URL and credential.
        examples: inputs per operation.
        first_seed: of the generator.

    Returns:
        Number of calls, and what broke: a status of 500 or more other than 501 and 503, a problem
        that is none, an error that repeats nothing but says nothing either.
    """
    calls, findings = 0, []
    for operation in operations(document, str(client.base_url)):
        count, found = _explore_one(operation, client, examples, first_seed)
        calls += count
        findings += found[:1]
    return calls, findings


def _explore_one(
    operation: Any, client: httpx2.Client, examples: int, first_seed: int
) -> tuple[int, list[Finding]]:
    answers: list[Finding | None] = []

    @seed(first_seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        answer = _send(client, case)
        why = _fault(answer)
        command = case.as_curl_command() if why else ""
        answers.append(Finding(operation.label, answer.status_code, why, command) if why else None)

    run()
    return len(answers), [each for each in answers if each is not None]


def _send(client: httpx2.Client, case: Any) -> httpx2.Response:
    sent = case.as_transport_kwargs()
    headers = {k: v for k, v in (sent.get("headers") or {}).items() if _is_sendable(k, v)}
    body = {name: sent[name] for name in ("json", "data", "content") if sent.get(name) is not None}
    if "data" in body and isinstance(body["data"], bytes | str):
        body["content"] = body.pop("data")
    return client.request(
        case.method, case.formatted_path, params=sent.get("params"), headers=headers, **body
    )


def _is_sendable(name: str, value: object) -> bool:
    # The credential stays ours; a name or value that HTTP itself forbids cannot be sent.
    text = f"{name}{value}"
    return (
        name.lower() not in {"x-api-key", "authorization"} and text.isascii() and text.isprintable()
    )


def _fault(answer: httpx2.Response) -> str:
    status = answer.status_code
    if status >= 500 and status not in {501, 503}:
        return "a fault of the server"
    if status < 400:
        return ""
    kind = answer.headers.get("content-type", "")
    if "json" not in kind:
        return f"an error as {kind or 'nothing'}"
    document = answer.json()
    if isinstance(document, str):  # Feast's clients read JSON inside of JSON
        document = orjson.loads(document)
    if not isinstance(document, dict) or not {"code", "error", "message"} & set(document):
        return "an error that does not say what is wrong"
    return ""


def main(arguments: list[str]) -> int:
    """Run against a suite that is up; exit 1 when something broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("key_file", type=Path)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    headers = {"X-API-Key": chosen.key_file.read_text().strip()}
    with httpx2.Client(base_url=chosen.url, headers=headers, timeout=30) as client:
        document = client.get("/openapi.json").json()
        calls, findings = explore(
            document, client, examples=chosen.examples, first_seed=chosen.seed
        )
    for each in findings:
        print(f"{each.operation}: {each.status}, {each.why}\n  {each.curl}")
    print(f"{calls} calls, {len(findings)} operations with findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
