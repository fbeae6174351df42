"""`python -m benchmarks.text_load`: from a fresh process to the first answer of the text model.

Ours, the int8 ONNX file, beside the same architecture as a float32 checkpoint under torch and
transformers (`make torch`; random weights of the model's sizes, which load as any others do). Each
start is a process of its own, in turns; the files are in the page cache. What importing a library
takes is told apart from what loading takes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "sentiment" / "1"
RESULTS = ROOT / "benchmarks" / "results" / "text_load.json"
TORCH = ROOT / ".venv" / "torch" / "bin" / "python"

_REPORT = """
import json, resource, sys, time
def report(at, names):
    spent = {name: after - before for name, before, after in zip(names, at, at[1:])}
    spent["peak, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(spent))
NAMES = ("imports, s", "load, s", "first answer, s", "second answer, s")
TEXT = "The battery lasts two days and the screen is bright."
at = [time.perf_counter()]
"""
_OURS = (
    _REPORT
    + """
from pathlib import Path
import onnxruntime
from libs.common.manifest import load_manifest
from services.inference.adapters.text_loading import load_text, prove_text
at.append(time.perf_counter())
folder = Path(sys.argv[1])
model = load_text(folder, load_manifest(folder))
if sys.argv[2] == "proved":
    prove_text(model)
at.append(time.perf_counter())
for _ in range(2):
    window = model.encoder.encode([TEXT])[0].windows[0]
    model.engine.finish(model.engine.forward(model.engine.collate([window], len(window))))
    at.append(time.perf_counter())
report(at, NAMES)
"""
)
_THEIRS = (
    _REPORT
    + """
import torch
from transformers import AutoModelForSequenceClassification
from tokenizers import Tokenizer
torch.set_num_threads(int(sys.argv[2]))
at.append(time.perf_counter())
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], local_files_only=True)
model.eval()
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
at.append(time.perf_counter())
for _ in range(2):
    ids = torch.tensor([tokenizer.encode(TEXT).ids])
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    at.append(time.perf_counter())
report(at, NAMES)
"""
)
# The sizes of all-MiniLM-L6-v2, the encoder of the released text models.
_CHECKPOINT = """
import shutil, sys
from transformers import BertConfig, BertForSequenceClassification
sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
model = BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=3, **sizes))
model.save_pretrained(sys.argv[1])
shutil.copyfile(sys.argv[2], sys.argv[1] + "/tokenizer.json")
"""


def _run(python: str | Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(python), "-c", program, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Start each side in turns; gives medians by side and figure."""
    threads = str(len(os.sched_getaffinity(0)))
    samples: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as checkpoint:
        sides = {
            "ours, proved and warmed up": (sys.executable, _OURS, str(MODEL), "proved"),
            "ours, loaded only": (sys.executable, _OURS, str(MODEL), "loaded"),
        }
        if TORCH.exists():
            _run(TORCH, _CHECKPOINT, checkpoint, str(MODEL / "tokenizer.json"))
            sides["torch and transformers"] = (str(TORCH), _THEIRS, checkpoint, threads)
        for _ in range(rounds + 1):
            for name, (python, program, *arguments) in sides.items():
                found = json.loads(_run(python, program, *arguments).splitlines()[-1])
                samples.setdefault(name, []).append(found)
    return {
        name: {key: statistics.median(one[key] for one in found[1:]) for key in found[0]}
        for name, found in samples.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5, help="after one that fills the page cache")
    found = measure(parser.parse_args().rounds)
    table = Table(title=f"to the first answer, load {os.getloadavg()[0]:.1f}")
    table.add_column("side")
    for column in next(iter(found.values())):
        table.add_column(column)
    for name, row in found.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    Console().print(table)
    document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "figures": found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
