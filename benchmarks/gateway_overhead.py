"""What the gateway adds to one call: `python -m benchmarks.gateway_overhead [--seconds 2]`.

A tiny service answers 1 KB at once. The same client calls it directly, through nginx (if it is
installed), through a bare aiohttp proxy without any of the chain, through LiteLLM's pass-through
(if `make peers` made its environment), and through the gateway (key, limits in Redis, identity,
metrics, log), in alternating rounds so that other load meets all alike. Closed loop at several
connection counts, then open loop: arrivals on a schedule, latency from the intended time. The
proxies share one core, generator and service another. Prints a table of medians over the rounds,
and what the bars make of it. `--against REVISION` puts the gateway of an older revision of this
repository beside the present one.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.gateway_stand import Stand, Way, stand
from benchmarks.raw_client import Load, closed_loop, open_loop, request_bytes

_REPOSITORY = Path(__file__).resolve().parents[1]
_LITELLM_PYTHON = _REPOSITORY / ".venv/peers/litellm/bin/python"
_LITELLM = "LiteLLM pass-through"


@dataclass
class Row:
    """One line of a table; medians over the rounds."""

    load: str
    path: str
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    cpu_us_least: float
    errors: int


def _revision(state: Path, name: str) -> Path:
    """Unpack another revision of the code."""
    folder = state / "revision"
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", name, "services", "libs"],
        cwd=_REPOSITORY, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


async def _ways(made: Stand, options: argparse.Namespace) -> list[Way]:
    """Start the ways asked for, and wait until each answers."""
    found: list[Way | None]
    if options.against:
        folder = _revision(made.state, options.against)
        found = [made.gateway(f"gateway of {options.against}", folder=folder), made.gateway()]
    else:
        found = [made.direct(), made.nginx(), made.bare_proxy(), made.gateway()]
        if not options.without_litellm:
            found.append(made.litellm(options.litellm))
    ways = [way for way in found if way is not None]
    for way in ways:
        await made.ready(way, 120 if way.name == _LITELLM else 30)
    _pin(ways)
    return ways


def _pin(ways: list[Way]) -> None:
    """Give the proxies one core, and generator and service another.

    Left to the scheduler they land on the same core now and then, and wait for each other.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    for way in ways:
        for process in [way.process, *way.process.children()] if way.process else []:
            process.cpu_affinity([cores[1]])
    os.sched_setaffinity(0, {cores[0]})


async def _once(way: Way, load: str, key: str, seconds: float) -> tuple[float, Load]:
    """Load one way; gives the CPU seconds it took, and the load."""
    request = request_bytes(way.port, key)
    before = way.cpu_s()
    if load.endswith("/s"):
        made = await open_loop(way.port, request, int(load[:-2]), seconds)
    else:
        made = await closed_loop(way.port, request, int(load), seconds)
    return way.cpu_s() - before, made


def _row(load: str, way: Way, runs: list[tuple[float, Load]]) -> Row:
    costs = [cpu / len(made.samples) * 1e6 for cpu, made in runs]
    return Row(
        load,
        way.name,
        round(statistics.median(made.per_s for _, made in runs)),
        round(statistics.median(made.quantile_ms(0.5) for _, made in runs), 3),
        round(statistics.median(made.quantile_ms(0.99) for _, made in runs), 3),
        round(statistics.median(costs), 1),
        round(min(costs), 1),
        sum(made.errors for _, made in runs),
    )


async def _measure(ways: list[Way], key: str, options: argparse.Namespace) -> list[Row]:
    rows = []
    for load in options.loads.split(","):
        # One process of LiteLLM answers some hundred requests per second: larger loads only queue.
        able = [way for way in ways if way.name != _LITELLM or load in options.litellm_loads]
        seen: dict[str, list[tuple[float, Load]]] = {way.name: [] for way in able}
        for _ in range(options.rounds):
            for way in able:
                seen[way.name].append(await _once(way, load, key, options.seconds))
        rows += [_row(load, way, seen[way.name]) for way in able]
    return rows


def _bars(rows: list[Row]) -> list[str]:
    """Put the figures beside the bars; a comparison whose sides were not measured is left out."""
    by = {(row.load, row.path): row for row in rows}

    def pair(load: str, path: str, other_load: str, other: str) -> tuple[Row, Row] | None:
        left, right = by.get((load, path)), by.get((other_load, other))
        return (left, right) if left and right else None

    lines = []
    ours = "gateway"
    if added := pair("500/s", ours, "500/s", "direct"):
        p50, p99 = added[0].p50_ms - added[1].p50_ms, added[0].p99_ms - added[1].p99_ms
        lines.append(f"added at 500/s: p50 {p50:.3f} ms (bar 0.5), p99 {p99:.3f} ms (bar 2)")
        lines.append(f"CPU at 500/s: {added[0].cpu_us} us (bar 350, stretch 180)")
    for load in ("1", "500/s"):
        sides = pair(load, ours, load, "direct"), pair(load, "nginx", load, "direct")
        if sides[0] and sides[1]:
            shares = [side[0].p50_ms - side[1].p50_ms for side in sides if side]
            ratio = shares[0] / max(shares[1], 1e-6)
            lines.append(f"added p50 at {load}, in multiples of nginx: {ratio:.1f} (bar 4)")
    if both := pair("64", ours, "64", "bare aiohttp proxy"):
        share = both[0].per_s / both[1].per_s
        lines.append(f"throughput at 64, share of a bare aiohttp proxy: {share:.2f} (bar 0.4)")
    if both := pair("16", ours, "16", _LITELLM):
        share = both[0].per_s / both[1].per_s
        lines.append(f"throughput at 16, in multiples of LiteLLM: {share:.0f} (bar 20)")
    if both := pair("1000", ours, "64", ours):
        share = both[0].per_s / both[1].per_s
        errors = both[0].errors
        lines.append(f"throughput at 1000 of that at 64: {share:.2f} (bar 0.9), {errors} errors")
    if both := pair("512", ours, "16", ours):
        share = both[0].cpu_us / both[1].cpu_us
        lines.append(f"CPU per request at 512 of that at 16: {share:.2f} (bar 1.25)")
    return lines


async def _run(state: Path, options: argparse.Namespace) -> list[Row]:
    async with stand(state) as made:
        ways = await _ways(made, options)
        return await _measure(ways, made.key, options)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--loads",
        default="1,16,64,512,1000,500/s",
        help="connections of a closed loop, or arrivals per second of an open one",
    )
    parser.add_argument("--against", metavar="REVISION", help="an older gateway beside this one")
    parser.add_argument("--litellm", type=Path, default=_LITELLM_PYTHON, metavar="PYTHON")
    parser.add_argument("--litellm-loads", nargs="*", default=["1", "16"])
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        rows = uvloop.run(_run(Path(state), options))
    print("| load | path | answers/s | p50 ms | p99 ms | CPU us per request (least) | errors |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cpu = f"{row.cpu_us:.0f} ({row.cpu_us_least:.0f})" if row.cpu_us else "-"
        print(
            f"| {row.load} | {row.path} | {row.per_s:.0f} | {row.p50_ms:.3f} | {row.p99_ms:.3f} "
            f"| {cpu} | {row.errors} |"
        )
    for line in _bars(rows):
        print(line)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
