"""Tables for notebooks: what is shown, escaped, and silent where nothing is known."""

from __future__ import annotations

from html.parser import HTMLParser

import simulator
from simulator.results.markup import HEADLINE, figure_text, html_list, html_table
from simulator.results.tables import schema


class Cells(HTMLParser):
    """Texts of the cells, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_figures_carry_their_unit() -> None:
    assert figure_text("ttft_p90", 0.05) == "50 ms"
    assert figure_text("memory_peak", 2.0**34) == "16 GiB"
    assert figure_text("accelerators", 1024) == "1,024"
    assert figure_text("mfu", float("nan")) == figure_text("reason", None) == ""
    assert figure_text("unstable", True) == "yes"


def test_what_users_write_is_text_and_not_markup() -> None:
    text = html_table("<b>", ["", "x & y"], [["mfu", "<script>"]], "a < b") + html_list(["<i>"])
    assert Cells(text).texts == ["<b>", ": a < b", "x & y", "mfu", "<script>", "<i>"]
    assert 'title="Model FLOPs utilisation' in text


def test_everything_a_notebook_shows_has_a_table() -> None:
    scenario = simulator.load("llama3-70b-chat", ["workloads.chat.requests.count=60"])
    result = simulator.run(scenario)
    trained = simulator.estimate("gpt3-175b-selene")
    assert "dgx-h100" in " ".join(Cells(scenario._repr_html_()).texts)
    assert figure_text("ttft_p90", result.of("chat")["ttft_p90"]) in Cells(result._repr_html_()).texts
    estimate = trained.details["gpt3-175b"]
    assert figure_text("seconds", estimate.seconds) in Cells(estimate._repr_html_()).texts


def test_comparisons_and_advice_show_their_variants() -> None:
    found = simulator.compare(["gpt3-175b-selene"], ["workloads.0.plan.recompute=selective,full"], depth="step", jobs=1)
    texts = Cells(found._repr_html_()).texts
    assert all(name in texts for name in found.names)
    advice = simulator.recommend(
        "llama3-70b-chat", ["workloads.chat.requests.count=100"], objective="gpus", max_accelerators=16, jobs=1
    )
    shown = Cells(advice._repr_html_()).texts
    assert advice.best is not None
    assert "best" in shown
    assert "nothing keeps the limits" not in shown


def test_what_a_notebook_shows_first_is_in_the_schema_and_the_rest_unfolds() -> None:
    assert all(("summary", name) in schema() for name in HEADLINE)
    shown = simulator.run("quickstart")._repr_html_()
    first, folded = shown.split("<details>")
    assert "lost rework" not in first and "lost rework" in folded
    assert 3 * first.count("<tr") < folded.count("<tr")
