"""Documents agree with the code: status table, make targets, links, decisions."""

import re
from pathlib import Path

import pytest

from libs.common.catalog.table import BEGIN, END, status_table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
    if ".venv" not in path.parts
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_the_status_table_is_the_catalogues() -> None:
    text = (ROOT / "README.md").read_text()
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == status_table(), "run: make docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_that_documents_name_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"(?:`|^)make ([a-z][a-z-]*)", (ROOT / name).read_text(), re.M)
    assert named
    for target in set(named):
        assert re.search(rf"^{target}:", makefile, re.M), f"{name} names make {target}"


def test_every_decision_is_indexed() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for path in (ROOT / "docs/adr").glob("0*.md"):
        assert f"({path.name})" in index


def test_every_runbook_is_indexed() -> None:
    index = (ROOT / "docs/runbooks/README.md").read_text()
    for path in (ROOT / "docs/runbooks").glob("*.md"):
        assert path.name == "README.md" or path.name in index
