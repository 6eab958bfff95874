"""The page: well formed, self-contained, honest, and at home in a real browser."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from targets.device_state import StatePoint
from targets.report.page import html_page
from targets.report.plots import Point, histogram, over_time, scatter, state_over_time
from targets.report.svg import apart, log_ticks, round_ticks
from targets.result import RunResult, summarise
from tests.stand_ins.chromium import Chromium
from tests.stand_ins.synthetic_runs import (
    emulated_run,
    hot_phone_run,
    interleaved_runs,
    jetson_run,
    latencies_ns,
    mixed_runs,
    phone_run,
    with_samples,
)

MADE = datetime(2026, 11, 21, 20, 15)
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checker(HTMLParser):
    """Keeps what is open, and notes what does not nest, every id and every address."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.references: set[str] = set()
        self.tags: Counter[str] = Counter()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in _VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids[value] += 1
            if name in ("href", "src", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value or "")
            if name == "aria-labelledby" and value:
                self.references.add(value)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.wrong == []
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def page() -> str:
    return html_page(mixed_runs(), made=MADE)


def test_the_page_is_well_formed_and_asks_nobody(page: str) -> None:
    checker = checked(page)
    assert max(checker.ids.values()) == 1
    inside = {address[1:] for address in checker.addresses if address.startswith("#")}
    assert inside <= set(checker.ids)
    assert checker.references <= set(checker.ids)
    assert {a for a in checker.addresses if not a.startswith("#")} == {"data:,"}
    assert not re.search(r"url\(|@import|https?://|//[a-z]+\.", page)
    assert "default-src 'none'" in page


def test_all_of_it_is_there(page: str) -> None:
    checker = checked(page)
    assert checker.tags["article"] == 18
    for run in mixed_runs():
        assert f"run-{run.run_id}" in checker.ids
        for note in (*run.reasons, *run.warnings):
            assert note in checker.text
    assert "Made 2026-11-21 20:15 UTC" in checker.text
    # Tile, table, card, its sentence and its pictures, and the explanation.
    assert checker.text.count("emulated: not a latency") >= 6


def test_repeats_share_a_row_and_keep_their_cards() -> None:
    runs = interleaved_runs()
    runs[4] = replace(runs[4], valid=False, reasons=("it was hot",))
    page = html_page(runs, made=MADE)
    checker = checked(page)
    assert checker.tags["article"] == 9
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = body.split("</tr>")[:-1]
    assert len(rows) == 3
    assert all(row.count('<a href="#run-') == 4 for row in rows)
    assert ["INVALID" in row for row in rows] == [False, True, False]
    assert f'<a href="#run-{runs[4].run_id}" class="bad" title="INVALID">2</a>' in rows[1]
    assert "2 valid" in rows[1]
    assert [f"run {number} of 3" in checker.text for number in (1, 2, 3)] == [True] * 3
    # Each run that counts has a mark of its own beside the median of them all.
    glance = page[page.index('id="glance"') : page.index('id="trade"')]
    assert glance.count('<i class="one"') == 8


def test_the_axis_reaches_to_a_p90_without_p99() -> None:
    run = next(run for run in mixed_runs() if run.valid and not run.emulated)
    samples = (12_690_000,) * 80 + (19_600_000,) * 20
    run = replace(run, samples_ns=samples, starts_ns=run.starts_ns[:100],
                  summary=summarise(samples), published=None)  # fmt: skip
    page = html_page([run], made=MADE)
    ends = [float(end) for end in re.findall(r"right:calc\(100% - ([-\d.]+)%\)", page)]
    assert ends and max(ends) < 100


def test_what_counts_stands_first_and_hosts_are_told_apart() -> None:
    run = next(run for run in mixed_runs() if run.valid and not run.emulated)
    bad = replace(run, run_id="bad", valid=False, reasons=("busy",))
    far = replace(run, run_id="far", device=replace(run.device, name="ssh root@far"))
    text = html_page([replace(bad, device=replace(run.device, name="a")), far], made=MADE)
    assert text.index('href="#run-far"') < text.index('href="#run-bad"')
    glance = text[text.index('id="glance"') :]
    assert "ssh root@far" in glance[: glance.index("</section>")]


def test_twenty_long_runs_stay_below_two_megabytes() -> None:
    runs = [
        replace(hot_phone_run(5000), run_id=f"run-{number}", reasons=("hot",))
        for number in range(20)
    ]
    assert len(html_page(runs, made=MADE).encode()) < 2_000_000


def test_names_of_devices_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>\"'&"
    run = phone_run(count=70)
    run = replace(
        run,
        target=evil,
        engine=evil,
        device=replace(run.device, name=evil, model=evil, os=evil),
        artifact=replace(run.artifact, model=evil, key=evil),
        valid=False,
        reasons=(evil,),
        warnings=(evil,),
        settings={evil: evil},
        state_series=(StatePoint(0.0, {evil: 40.0}, {evil: 1000}, None),),
    )
    other = replace(run, run_id="valid", valid=True, reasons=())
    text = html_page([run, other], made=MADE, title=evil)
    assert checked(text).tags["script"] == 1
    assert "alert(1)</script>" not in text


def test_what_does_not_count_is_in_no_picture_with_others() -> None:
    slow = with_samples(replace(hot_phone_run(700), target="spoiled"), latencies_ns(700, 77.0))
    text = html_page([phone_run(count=700), slow, emulated_run()], made=MADE)
    first = text.index('id="glance"')
    shared = text[first : text.index('id="runs"')]
    assert "spoiled" not in shared
    assert "raspberry-pi-5" not in shared
    assert "2 runs are not in it" in shared
    alone = html_page([slow, emulated_run()], made=MADE)
    assert 'id="glance"' not in alone
    assert 'id="trade"' not in alone
    checked(alone)


def numbers(svg: str, path: str) -> list[list[tuple[float, float]]]:
    """The points of every path of a class."""
    found = []
    for d in re.findall(rf'<path class="{path}"[^>]* d="([^"]+)"', svg):
        values = [float(text) for text in re.findall(r"-?\d+\.?\d*", d)]
        found.append(list(zip(values[::2], values[1::2], strict=False)))
    return found


def test_downsampling_keeps_the_extremes_and_says_what_it_did() -> None:
    # Flat but for one sample down and one up, in the middle of thousands.
    samples = np.full(5000, 10_000_000) + np.arange(5000) % 7 * 10_000
    samples[2100], samples[3300] = 9_000_000, 11_000_000
    run = with_samples(phone_run(), tuple(int(v) for v in samples), state_series=())
    figure = over_time(run)
    assert "5000 samples in 240 buckets" in figure.caption
    assert "1 above the frame, marked by triangles: up to 11.00 ms" in figure.caption
    assert figure.svg.count('class="above"') == 1
    (band,) = numbers(figure.svg, "band")
    lowest = max(y for _, y in band)
    typical = float(np.median([y for _, y in band[len(band) // 2 :]]))
    assert lowest > typical + 20
    (line,) = numbers(figure.svg, "line")
    assert len(line) >= 240


def test_a_pause_interrupts_the_line() -> None:
    run = phone_run(count=1000)
    starts = tuple(s + (30_000_000_000 if i >= 500 else 0) for i, s in enumerate(run.starts_ns))
    assert len(numbers(over_time(replace(run, starts_ns=starts, state_series=())).svg, "line")) == 2


def test_few_samples_are_dots_and_all_of_them() -> None:
    figure = over_time(with_samples(phone_run(), latencies_ns(50, 9.0), state_series=()))
    (dots,) = re.findall(r'class="dots" d="([^"]+)"', figure.svg)
    above = re.search(r"(\d+) above", figure.caption)
    assert dots.count("M") + (int(above[1]) if above else 0) == 50


def test_the_histogram_counts_every_sample() -> None:
    for count in (1, 2, 12, 700, 5000):
        run = with_samples(phone_run(), latencies_ns(count, 9.0, seed=count))
        svg = histogram(run).svg
        bars = re.findall(r"<title>[\d.]+ to [\d.]+ ms: (\d+) samples</title>", svg)
        tail = re.search(r"<title>(\d+) above", svg)
        assert sum(map(int, bars)) + (int(tail[1]) if tail else 0) == count


_AT_70 = phone_run(count=70)
_STRANGE = {
    "one sample": with_samples(phone_run(count=70), (9_000_000,)),
    "all alike": with_samples(_AT_70, (9_000_000,) * 1000),
    "nanoseconds": with_samples(_AT_70, (1, 2, 3) * 300),
    "zeros": with_samples(_AT_70, (0, 0), valid=False, reasons=("the clock is too coarse",)),
    "hours": with_samples(_AT_70, (3_600_000_000_000,) * 3),
    "nothing": with_samples(_AT_70, (), valid=False, reasons=("the cable was pulled",)),
    "one state": replace(
        _AT_70,
        state_series=(StatePoint(-2.0, {"cpu": -3.5}, {}, 0.0),),
        state_before=None,
        settings={},
    ),
    "states in part": replace(
        _AT_70,
        state_series=(
            StatePoint(0.0, {"a": 1.0}, {}, None),
            StatePoint(5.0, {"b": 1.0}, {"x": 0}, None),
        ),
        published=None,
        parity=None,
    ),
    "no accuracy": replace(_AT_70, artifact=replace(_AT_70.artifact, accuracy=None), cpu_mask=None),
}


@pytest.mark.parametrize("name", _STRANGE)
def test_strange_runs_become_pages(name: str) -> None:
    page = html_page([_STRANGE[name]], made=MADE)
    checked(page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
        assert not re.search(r"\b(nan|inf|None)\b", svg)


def test_many_clocks_become_a_band_and_like_ones_share_a_line() -> None:
    def series(clocks: dict[str, int]) -> RunResult:
        points = tuple(
            StatePoint(float(t), {}, {name: khz - t for name, khz in clocks.items()}, None)
            for t in range(5)
        )
        return replace(phone_run(count=70), state_series=points)

    (alike,) = state_over_time(series({f"cpu{i}": 2_000_000 for i in range(8)}))
    assert "cpu0-7" in alike.svg
    (many,) = state_over_time(series({f"cpu{i}": 2_000_000 + 50_000 * i for i in range(16)}))
    assert many.caption == "16 series: the band holds them all, the line is their median."
    (power,) = [f for f in state_over_time(jetson_run()) if f.title == "Power, W"]
    assert 'class="line s0"' in power.svg


def test_labels_of_the_scatter_hide_nothing() -> None:
    rng = np.random.default_rng(1)
    points = [
        Point(float(ms), float(ap), f"model {i}", f"text {i}", i % 6, i % 6)
        for i, (ms, ap) in enumerate(rng.uniform((1, 0.6), (40, 0.8), (40, 2)))
    ]
    for narrow in (False, True):
        figure = scatter(points, "AP", narrow=narrow)
        root = ElementTree.fromstring(figure.svg)
        marks = [group for group in root.iter("g") if group.get("class", "").startswith("point")]
        assert len(marks) == 40
        assert all(group.get("tabindex") == "0" and group.get("aria-label") for group in marks)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (9.1, 9.3), (1e-4, 2e-4), (0, 5e6), (-40, 95)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 * abs(high) for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    digits = f"{steps[0]:.1e}".partition("e")[0]
    assert digits in ("1.0", "2.0", "2.5", "5.0")


def test_logarithmic_ticks_are_never_too_few_to_read() -> None:
    assert log_ticks(0.9, 35, 8) == [1, 2, 5, 10, 20] or len(log_ticks(0.9, 35, 8)) >= 4
    assert len(log_ticks(1.05, 1.39, 8)) >= 2
    assert len(log_ticks(0.001, 5000, 4)) <= 8


def test_labels_are_pushed_apart_but_not_out() -> None:
    placed = apart([50.0, 51.0, 10.0, 52.0], 14, reach=60)
    assert max(placed) <= 60
    assert np.min(np.diff(sorted(placed))) >= 14
    assert np.argsort(placed).tolist() == [2, 0, 1, 3]


def test_a_browser_shows_it_without_error_or_request(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with Chromium() as browser:
        browser.open(file)
        assert browser.requests() == [file.resolve().as_uri()]
        for width in (1280, 390):
            for dark in (False, True):
                browser.look(width=width, dark=dark)
                # Nothing sticks out sideways.
                assert browser.run("return document.documentElement.scrollWidth") <= width
                paper = browser.run("return getComputedStyle(document.body).backgroundColor")
                level = sum(int(part) for part in re.findall(r"\d+", paper)[:3]) / 3
                assert (level < 60) if dark else (level > 200)
        browser.look(width=1280)
        assert browser.run("return document.querySelectorAll('table .badge').length") == 16
        _sorts_by_keyboard(browser)
        _contrast_is_enough(browser)
        assert browser.console() == []
        # The page's own promise holds: what it does not contain, it cannot get.
        browser.run("new Image().src = 'https://edgepose.invalid/x.png'")
        assert any("Content Security Policy" in message for message in browser.console())


def _sorts_by_keyboard(browser: Chromium) -> None:
    """Tab goes to the skip link first; a heading with the focus sorts on Enter, and back."""
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    browser.press("Tab")
    assert browser.run("return document.activeElement.className") == "skip"
    for _ in range(20):
        browser.press("Tab")
        if browser.run("return document.activeElement.textContent") == "p50 ms":
            break
    column = "return [...document.querySelectorAll('tbody tr')].map(r => r.cells[4].dataset.sort)"
    for word, reverse in (("ascending", False), ("descending", True)):
        browser.press("Enter")
        said = browser.run("return document.activeElement.parentNode.getAttribute('aria-sort')")
        assert said == word
        values = browser.run(column)
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=reverse)
        assert len(known) == 15
        assert values[-1] == ""


def _contrast_is_enough(browser: Chromium) -> None:
    """Text against its ground by WCAG's formula: 4.5 to 1 or more, light and dark."""
    script = """
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const ground = (node) => {
        for (; node; node = node.parentElement) {
          const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
          if (a > 0.99) return [r, g, b];
        }
      };
      const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const low = {};
      for (const node of document.querySelectorAll("main *:not(svg *)")) {
        const text = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!text || !node.checkVisibility()) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) low[`${node.tagName}.${node.className}`] = contrast;
      }
      return low;
    """
    for dark in (False, True):
        browser.look(width=1280, dark=dark)
        assert browser.run(script) == {}
