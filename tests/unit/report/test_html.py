"""The page: whole, offline, well formed, and drawn by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import simulator
from simulator.cli import main
from simulator.errors import ConfigError
from simulator.report.html import result_page, sweep_page, write_page
from simulator.report.html_svg import bars, scatter
from simulator.scenario.sweep import sweep

VOID = {"meta", "img", "br", "hr"}
TP = "workloads.chat.deployment.plan.tp"


class Balance(HTMLParser):
    """Open tags, cells per row of each table, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.widths: list[set[int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "data") and not str(v).startswith("data:")]
        if tag == "table":
            self.widths.append(set())
        if tag == "tr":
            self.cells = 0
        if tag in ("td", "th"):
            self.cells += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.widths[-1].add(self.cells)
        assert self.open.pop() == tag


def checked(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.fetched == []
    assert all(len(widths) == 1 for widths in parser.widths)
    assert not re.search(r"@import|url\(", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(svg)
    return parser


def test_a_run_says_its_verdict_figures_assumptions_and_sources() -> None:
    result = simulator.estimate("quickstart")
    page = result_page(result)
    checked(page)
    for words in ("quickstart", "Feasible", "Where the time goes", "Memory", "Sources and errors", *result.warnings):
        assert words.replace("'", "&#39;") in page
    assert 'title="Roofline bound' in page


def test_shares_are_read_in_per_cent_and_switches_as_words() -> None:
    result = simulator.run("llama3-70b-chat", ["workloads.chat.requests.count=80"])
    page = result_page(result)
    row = result.of("chat")
    assert f">{100 * row['slo_attainment']:.3g} %</td>" in page
    assert re.search(r">unstable</td><td[^>]*>no</td>", page)
    assert f">{row['output_tokens']:,} token</td>" in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).split()


def test_an_infeasible_run_says_why() -> None:
    result = simulator.estimate("llama3-70b-chat", [f"{TP}=1"])
    page = result_page(result)
    checked(page)
    assert "Not feasible: chat: out of memory" in page


def test_a_sweep_has_every_point_and_its_reason() -> None:
    found = sweep("llama3-70b-chat", {TP: [1, 3, 4, 8]}, depth="step", jobs=1)
    page = sweep_page(found)
    parser = checked(page)
    assert parser.widths
    assert page.count('<tr class="infeasible">') == 1
    assert page.count('<tr class="error">') == 1
    assert "not divisible by 3" in page
    assert "Best by each figure" in page


def test_what_users_write_is_text_and_not_markup() -> None:
    document = {**simulator.load("llama3-70b-chat").document, "name": "<script>alert(1)</script>"}
    page = sweep_page(sweep(document, {TP: [4, 8]}, depth="estimate", jobs=1))
    checked(page)
    assert "<script>alert" not in page
    ElementTree.fromstring(scatter("a < b", "x & y", "z", [(1.0, 2.0, "<g>", "t & u")]))


def test_marks_are_as_long_as_their_values_and_say_them() -> None:
    drawn = ElementTree.fromstring(
        bars("t", [("a", [("x", 1.0, "one"), ("y", 3.0, "three")], "4"), ("b", [("x", 2.0, "two")], "2")])
    )
    marks = [m for m in drawn.iter("{http://www.w3.org/2000/svg}rect") if m.get("class") == "mark"]
    lengths = [float(m.get("width", 0)) for m in marks]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 3, 2])
    assert [m[0].text for m in marks] == ["a: x one", "a: y three", "b: x two"]


def test_the_verb_writes_a_page_of_a_run_and_of_a_sweep(tmp_path: Path) -> None:
    scenario = ["llama3-70b-chat", "-s", "workloads.chat.requests.count=60"]
    assert main(["run", *scenario, "-o", str(tmp_path / "run"), "--json"]) == 0
    assert main(["sweep", *scenario, "-s", f"{TP}=4,8", "-j", "1", "-o", str(tmp_path / "sweep"), "--json"]) == 0
    for name in ("run", "sweep"):
        assert main(["report", str(tmp_path / name), "-o", str(tmp_path / f"{name}.html")]) == 0
        checked((tmp_path / f"{name}.html").read_text())
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "no.html")]) == 2
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page("", tmp_path / "missing" / "page.html")


@pytest.mark.slow
def test_a_browser_draws_the_page_and_runs_its_script_without_errors(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    page = sweep_page(sweep("llama3-70b-chat", [f"{TP}=1,4,8", "workloads.chat.requests.count=60"], jobs=1))
    click = "<script>document.querySelectorAll('table.sortable th')[1].click();"
    click += "document.querySelectorAll('table.sortable th')[1].click();</script>"
    file, picture = write_page(page.replace("</body>", click + "</body>"), tmp_path / "p.html"), tmp_path / "p.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600", f"--user-data-dir={tmp_path}/u"]
    shot = [browser, *flags, f"--screenshot={picture}", file.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    dumped = subprocess.run(
        [browser, *flags, "--dump-dom", file.as_uri()], check=True, capture_output=True, timeout=120
    )
    dom = dumped.stdout.decode()
    assert 'aria-sort="descending"' in dom
    body = dom[dom.index('class="sortable"') :]
    assert re.findall(r"<tr[^>]*><td[^>]*>(\d)</td>", body)[:3] == ["2", "1", "0"]

    printed = tmp_path / "p.pdf"
    subprocess.run(
        [browser, *flags, "--no-pdf-header-footer", f"--print-to-pdf={printed}", file.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert printed.read_bytes().startswith(b"%PDF")

    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (1600, 1200)
    blue = abs(pixels[..., :3] - [0, 0x72 / 255, 0xB2 / 255]).max(axis=2) < 0.01
    assert blue.sum() > 50  # the first colour of our palette


def test_figures_of_a_sweep_are_drawn_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = [
        "llama3-70b-chat",
        "-s",
        "workloads.chat.requests.count=60",
        "-s",
        "workloads.chat.requests.rate=2/s,4/s",
    ]
    assert main(["sweep", *scenario, "-j", "1", "-o", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    assert main(["plot", str(tmp_path)]) == 0
    drawn = {Path(line).stem for line in capsys.readouterr().out.split()}
    assert drawn == {"variant_bars", "pareto", "goodput_against_rate", "cost_bars", "tco_bars"}
    assert main(["plot", str(tmp_path), "memory_bars"]) == 2
    assert "no figure of a sweep" in capsys.readouterr().err
