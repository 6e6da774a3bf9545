"""Draw the README's picture: the recorded comparison of SFT and ReFT.

    python tools/figures.py            data/runs/nano -> book/images/result.svg and result.png

Prints the picture's alternative text and writes it into the README, beside the picture.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
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


def describe_in(readme: str, alt: str) -> str:
    """Return the README's text with another alternative text for its picture."""
    wrapped = textwrap.fill(f"![{alt}](book/images/result.png)", 110, break_on_hyphens=False)
    text, found = re.subn(r"!\[[^\]]*\]\(book/images/result\.png\)", lambda _: wrapped, readme)
    if found != 1:
        raise UserError(f"README.md shows book/images/result.png {found} times; it must do so once")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 2 means bad input, told in one line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs" / "nano")
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "images")
    options = parser.parse_args(arguments)
    try:
        alt = draw(options.runs, options.out)
        print(alt)
        if options.out == ROOT / "book" / "images":
            readme = ROOT / "README.md"
            readme.write_text(describe_in(readme.read_text("utf-8"), alt), encoding="utf-8")
    except UserError as error:
        print(f"stop: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
