"""`audit verify` and `audit export`: check a log without trusting who runs it; save what it holds.

Exit codes of verify: 0 sound, 1 tampered with (the first bad index is named), 2 could not check.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from libs.cli.connection import Gateway, NotRunningError
from libs.common.transparency.bundle import NotEvidenceError, read_evidence, verify_evidence
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import COSIGNATURE, VerifierKey
from libs.common.transparency.policy import Policy
from libs.common.transparency.proof import HEADER, ProofFile
from libs.common.transparency.report import FORMAT, NoProofError, verify_report
from libs.common.transparency.tree import VerificationError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Verify and export the audit log."
)
SOUND, TAMPERED, UNCHECKED = 0, 1, 2


class _CannotCheckError(Exception):
    """Nothing can be said about the log; the text says why and what helps."""


@app.command()
def verify(
    target: Annotated[
        Path | None,
        typer.Argument(
            help="A proof (.tlog-proof), an evidence file (.zip) or a compliance report (.json); "
            "none: the database."
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(help="Verifier key of the log, or a file that holds it.")
    ] = "",
    witness_key: Annotated[
        str, typer.Option(help="Verifier key of the witness that must have cosigned, or a file.")
    ] = "",
    leaf: Annotated[Path | None, typer.Option(help="Exact leaf bytes, for a proof.")] = None,
    database: Annotated[
        str, typer.Option(help="PostgreSQL URL of the whole log; default POSTGRES_URL.")
    ] = "",
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint that was kept elsewhere, such as the witness's; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify one proof, an evidence file, or the whole log; exit 0 sound, 1 tampered, 2 unknown."""
    try:
        policy = _policy(key, witness_key)
        result = _check(target, policy, leaf, database, against or [])
    except VerificationError as error:
        _tell(_fault(error), as_json)
        raise typer.Exit(TAMPERED) from None
    except (_CannotCheckError, NotEvidenceError, NoProofError) as error:
        _tell({"verdict": "not checked", "reason": str(error)}, as_json)
        raise typer.Exit(UNCHECKED) from None
    _tell({"verdict": "sound", **result}, as_json)


def _policy(key: str, witness_key: str) -> Policy:
    log = _key(key, "--key")
    witnesses = (_key(witness_key, "--witness-key"),) if witness_key else ()
    if any(item.kind != COSIGNATURE for item in witnesses) or log.kind == COSIGNATURE:
        raise _CannotCheckError("--key is a log's key, --witness-key is a witness's")
    return Policy(log, witnesses)


def _key(text: str, option: str) -> VerifierKey:
    if not text:
        raise _CannotCheckError(
            f"{option} is missing: the key is what you trust, so it cannot come from the log. The "
            "local runner keeps it in STATE_DIR/audit/log.vkey"
        )
    try:
        return VerifierKey.parse(Path(text).read_text() if Path(text).is_file() else text)
    except (ValueError, OSError) as error:
        raise _CannotCheckError(f"{option} is not a verifier key: {error}") from None


def _check(
    target: Path | None, policy: Policy, leaf: Path | None, database: str, against: list[Path]
) -> dict[str, Any]:
    if target is None:
        url = database or os.environ.get("POSTGRES_URL") or os.environ.get("DATABASE_URL") or ""
        if not url:
            raise _CannotCheckError("give a file, or the log's database with --database")
        return asyncio.run(_check_database(url, policy, _texts(against)))
    data = _read(target)
    if data.startswith(HEADER.encode()):
        if leaf is None:
            raise _CannotCheckError("a proof needs its leaf: --leaf FILE")
        proof = ProofFile.parse(data.decode("utf-8", "replace"))
        checkpoint = proof.verify(_read(leaf), policy, verify_ed25519)
        return {"index": proof.index, "log_size": checkpoint.size}
    if data.startswith(b"{"):
        return verify_report(_report(data), policy, verify_ed25519, kept=_texts(against))
    with _bar("leaves") as progress:
        return verify_evidence(read_evidence(target), policy, verify_ed25519, progress=progress)


def _report(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = {}
    if document.get("report") != FORMAT:
        raise _CannotCheckError("the file is not a compliance report")
    return dict(document)


def _texts(paths: list[Path]) -> list[str]:
    return [_read(path).decode("utf-8", "replace") for path in paths]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _CannotCheckError(f"{path} cannot be read: {error.strerror}") from None


async def _check_database(url: str, policy: Policy, kept: list[str]) -> dict[str, Any]:
    import asyncpg

    from libs.cli.audit_database import check_database

    try:
        connection = await asyncpg.connect(
            url, timeout=10, server_settings={"search_path": "audit", "jit": "off"}
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise _CannotCheckError(f"the database does not answer: {type(error).__name__}") from None
    try:
        with _bar("leaves") as progress:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                found = await check_database(connection, policy, kept=kept, progress=progress)
    except (asyncpg.PostgresError, OSError) as error:
        raise _CannotCheckError(f"the database cannot be read: {type(error).__name__}") from None
    finally:
        await connection.close(timeout=5)
    return {
        "log_size": found.size,
        "leaves": found.leaves,
        "payloads": found.payloads,
        "checkpoints": found.checkpoints,
        "cosigned_checkpoints": found.witnessed,
        "unsigned_tail": found.unsigned_tail,
        "unwitnessed_tail": found.unwitnessed_tail,
        "data_subjects": len(found.pseudonyms),
        "erased_data_subjects": len(found.erased),
    }


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _fault(error: VerificationError) -> dict[str, Any]:
    def shown(value: object) -> object:
        return value.hex() if isinstance(value, bytes) else value

    return {
        "verdict": "tampered",
        "what": str(error),
        "first_bad_index": error.index,
        "expected": shown(error.expected),
        "found": shown(error.found),
    }


def _tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(result, default=str).decode() + "\n")
        return
    for name, value in result.items():
        if value is not None:
            print(f"{name.replace('_', ' '):<22} {value}")


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="File to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="ndjson, csv, ocsf or evidence.")
    ] = "ndjson",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="name=value as in the search, e.g. type=auth.failed."),
    ] = None,
    state_dir: Annotated[Path, typer.Option(help="State directory of the suite.")] = Path(
        ".gatehouse"
    ),
) -> None:
    """Save events of your tenant, or a range of the log with its proof."""
    pairs = [text.partition("=") for text in filters or []]
    query = {"format": format_, **{name: value for name, _, value in pairs}}
    try:
        asyncio.run(_export(Gateway.find(state_dir), query, output))
    except NotRunningError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        print(f"export: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


async def _export(gateway: Gateway, query: dict[str, str], output: Path) -> None:
    temporary = output.with_name(output.name + ".part")
    async with gateway.session() as session, session.get("/v1/audit/export", params=query) as reply:
        if reply.status != 200:
            raise OSError(f"the gateway answered {reply.status}: {await reply.text()}")
        total = int(reply.headers.get("x-total-rows", "0"))
        is_lines = query["format"] != "evidence"
        done = 0
        with _bar("events" if is_lines else "bytes") as progress, temporary.open("wb") as file:
            async for chunk in reply.content.iter_chunked(1 << 18):
                file.write(chunk)
                done += chunk.count(b"\n") if is_lines else len(chunk)
                progress(done, total if is_lines else int(reply.headers["content-length"]))
    temporary.replace(output)
