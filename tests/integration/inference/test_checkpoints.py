"""Hugging Face checkpoints, from a folder and from a hub, become versions that serve."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from libs.common.errors import UnavailableError
from libs.common.manifest import ManifestError, load_manifest
from services.inference.adapters.checkpoint_source import CheckpointSource
from services.inference.domain.checkpoint import Checkpoint, chosen_files
from tests.integration.inference.replicas import replica, until
from tests.support.text_models import write_graph, write_tokenizer

pytestmark = pytest.mark.anyio
COMMIT = "a" * 40


def checkpoint_folder(root: Path, labels: tuple[str, ...] = ("BAD", "GOOD", "FINE")) -> Path:
    """A classifier as exporters leave it: config, tokenizer, onnx/model.onnx, and a pickle."""
    (root / "onnx").mkdir(parents=True)
    write_graph(root / "onnx/model.onnx", len(labels))
    write_tokenizer(root / "tokenizer.json")
    config = {"id2label": {str(n): label for n, label in enumerate(labels)}, "model_type": "bert"}
    (root / "config.json").write_text(json.dumps(config))
    (root / "pytorch_model.bin").write_bytes(b"never read")
    return root


@asynccontextmanager
async def hub(folder: Path, **wrong: Any) -> AsyncIterator[str]:
    """Serve a folder as a hub does; `wrong` falsifies entries of the listing."""

    def entry(path: Path) -> dict[str, Any]:
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        found: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
        if name.endswith(".onnx"):
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest()}
            found |= wrong
        return found

    def listing() -> list[dict[str, Any]]:
        return [entry(path) for path in sorted(folder.rglob("*")) if path.is_file()]

    async def revision(_: web.Request) -> web.Response:
        return web.json_response({"sha": COMMIT})

    async def tree(_: web.Request) -> web.Response:
        return web.json_response(listing())

    async def content(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["path"])

    app = web.Application()
    app.router.add_get("/api/models/owner/name/revision/{revision}", revision)
    app.router.add_get(f"/api/models/owner/name/tree/{COMMIT}", tree)
    app.router.add_get(f"/owner/name/resolve/{COMMIT}/{{path:.+}}", content)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_folder_becomes_a_version_that_serves(models, tmp_path, clean_postgres, redis_url):
    folder = checkpoint_folder(tmp_path / "export")
    stores = (tmp_path / "state", clean_postgres, redis_url)
    async with replica(models, *stores, checkpoints=(f"mood/3={folder}",)) as one:

        async def serves() -> bool:
            return "mood" in {item["name"] for item in (await one.get("/models"))["items"]} and (
                (await one.get("/models/mood"))["aliases"].get("stable") == "3"
            )

        await until(serves, "the checkpoint serves")
        body = await one.post("/v1/models/mood/predict", 200, inputs=["the service was good"])
        assert set(body["predictions"][0]["scores"]) == {"bad", "good", "fine"}
        version = (await one.get("/models/mood"))["versions"][0]
        assert (version["source"], version["state"]) == ("checkpoint", "ready")
        health = (await one.client.get("/health")).json()["components"]["checkpoints"]
        assert health["status"] == "ok"
    manifest = load_manifest(tmp_path / "state/inference/checkpoints/mood/3")
    assert {entry.path for entry in manifest.files} == {
        "config.json", "model.onnx", "tokenizer.json",
    }  # fmt: skip


async def test_the_hub_is_read_at_an_exact_revision_with_its_hashes(tmp_path):
    folder = checkpoint_folder(tmp_path / "export")
    async with hub(folder) as url:
        source = CheckpointSource(tmp_path / "staged", endpoint=url)
        wanted = Checkpoint.parse("mood/1=hf:owner/name@main")
        manifest = await source.fetch(wanted)
        assert source.has(wanted)
        assert manifest.training["revision"] == COMMIT
        assert manifest.golden_cases
    async with hub(folder, lfs={"oid": "0" * 64}) as url:
        source = CheckpointSource(tmp_path / "other", endpoint=url)
        with pytest.raises(ManifestError, match="sha256"):
            await source.fetch(wanted)
        assert not source.has(wanted)
        assert list((tmp_path / "other").iterdir()) == []
    async with hub(folder, size=3) as url:
        with pytest.raises(ManifestError, match="size"):
            await CheckpointSource(tmp_path / "other", endpoint=url).fetch(wanted)
        missing = Checkpoint.parse("mood/1=hf:owner/nobody")
        with pytest.raises(ManifestError, match="no such repository"):
            await CheckpointSource(tmp_path / "other", endpoint=url).fetch(missing)
    with pytest.raises(UnavailableError):
        await CheckpointSource(tmp_path / "other", endpoint="http://127.0.0.1:9").fetch(wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config.json": None}, "config.json"),
        ({"tokenizer.json": None}, "tokenizer.json"),
        ({"onnx/model.onnx": None}, "pickle"),
        ({"onnx/model.onnx": None, "pytorch_model.bin": None}, "neither"),
        ({"onnx/model.onnx": b"noise"}, "does not load"),
        ({"config.json": b"{}"}, "id2label"),
        ({"config.json": b"["}, "cannot be read"),
    ],
)
async def test_what_is_no_sound_classifier_is_refused(tmp_path, change, reason):
    folder = checkpoint_folder(tmp_path / "export")
    for name, content in change.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
    source = CheckpointSource(tmp_path / "staged", endpoint="http://127.0.0.1:9")
    with pytest.raises(ManifestError, match=reason):
        await source.fetch(Checkpoint.parse(f"mood/1={folder}"))
    assert list((tmp_path / "staged").iterdir()) == []


async def test_sentiment_takes_only_its_own_labels(tmp_path):
    folder = checkpoint_folder(tmp_path / "export")
    source = CheckpointSource(tmp_path / "staged", endpoint="http://127.0.0.1:9")
    with pytest.raises(ManifestError, match="negative, neutral and positive"):
        await source.fetch(Checkpoint.parse(f"sentiment/1={folder}"))


@pytest.mark.parametrize("text", ["mood=/x", "mood/0=/x", "mood/1=hf:name", "mo od/1=/x", "a/1="])
def test_a_declaration_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="checkpoint"):
        Checkpoint.parse(text)


def test_safetensors_are_taken_where_there_is_no_graph():
    names = {"config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"}
    assert "model.safetensors" in chosen_files(names)
    assert "pytorch_model.bin" not in chosen_files(names).values()
