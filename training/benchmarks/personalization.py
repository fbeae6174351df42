"""Both tables of the personalization page: `python -m training.benchmarks.personalization`.

Needs the evaluation data of both; each section is written by itself.
"""

import argparse
from pathlib import Path

from training.benchmarks import online_retail, online_shoppers
from training.benchmarks.report import from_terminal


def run(out: Path) -> None:
    """Run both benchmarks."""
    online_retail.run(out)
    online_shoppers.run(out)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/personalization.md"))
    from_terminal(run, parser.parse_args().out)


if __name__ == "__main__":
    main()
