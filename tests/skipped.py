"""What tests were skipped, a line a reason: ``python -m tests.skipped lines|count FILE``.

A file holds one reason a line, a test each.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["counted", "reason_of"]

_PREFIX = "Skipped: "


def reason_of(longrepr: object) -> str:
    """The reason in a skipped test's report: (file, line, text), or the text."""
    text = str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
    return " ".join(text.removeprefix(_PREFIX).split())


def counted(reasons: Iterable[str]) -> list[str]:
    """A heading and a line a reason, the most frequent first; nothing without skipped tests."""
    counts = Counter(reasons)
    if not counts:
        return []
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    total = sum(counts.values())
    noun = "test was" if total == 1 else "tests were"
    return [f"{total} {noun} skipped:", *(f"  {count:>4}  {reason}" for reason, count in rows)]


def main(argv: Sequence[str]) -> int:
    """Print the lines, or the number alone."""
    kind, path = argv
    lines = counted(Path(path).read_text(encoding="utf-8").splitlines())
    if lines and kind == "count":
        print(f"{lines[0].rstrip(':')}; `make test` sets up what they need and says why")
    elif lines:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
