"""Texts of a run stay text on the page, whatever a device calls itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

from targets.report.page import html_page
from targets.result import RunnerRecord
from tests.stand_ins.synthetic_runs import mixed_runs

MADE = datetime(2026, 11, 21, 20, 15)
_CHECKED = frozenset({"run_id", "started_utc", "mode"})


def ending(value: Any, end: str) -> Any:
    """The record with ``end`` behind every text in it but those that a run checks itself."""
    if isinstance(value, str):
        return value + end
    if isinstance(value, Mapping):
        return {ending(key, end): ending(inner, end) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(ending(inner, end) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value) if f.name not in _CHECKED]
        if isinstance(value, RunnerRecord):
            names = ["version"]
        return replace(value, **{name: ending(getattr(value, name), end) for name in names})
    return value


class Markup(HTMLParser):
    """Counts the elements of a page with the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, *(name for name, _ in attrs)] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_text_of_a_run_becomes_an_element_or_an_attribute() -> None:
    evil = "</title><script>x</script><b onclick='y' id=\"z\">&amp;--></svg>"
    pages = [
        html_page([ending(run, end) for run in mixed_runs()], made=MADE, title=f"Runs {end}")
        for end in ("x" * len(evil), evil)
    ]
    plain, hostile = (Markup(page) for page in pages)
    assert hostile.found == plain.found
    assert evil in hostile.text
