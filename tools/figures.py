"""Draw the README's picture: the recorded comparison of SFT and ReFT.

    python tools/figures.py            data/runs/nano -> book/images/result.svg and result.png

Prints the picture's alternative text, which belongs beside it in the README.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the library need not be installed

from reft_lib import bars, results, style  # noqa: E402
from reft_lib.errors import UserError  # noqa: E402


def draw(runs: Path, out: Path) -> str:
    """Write result.svg and result.png into ``out``; returns the alternative text."""
    fig = bars.results_bars(results.table(runs))
    for suffix in ("svg", "png"):
        style.save(fig, out / f"result.{suffix}")
    return style.describe(fig)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 2 means bad input, told in one line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs" / "nano")
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "images")
    options = parser.parse_args(arguments)
    try:
        print(draw(options.runs, options.out))
    except UserError as error:
        print(f"stop: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
