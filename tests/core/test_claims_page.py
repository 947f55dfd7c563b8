"""The report page: its structure, what it may load, its contrast, and a real browser where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from deltatune.core.claims import Claim, Control, Effects, Figure, Gate
from deltatune.core.claims.dots import _ticks
from deltatune.core.claims.figures import draw
from deltatune.core.claims.outcome import outcome
from deltatune.core.claims.publish import read_claims, write_claims, write_report
from deltatune.core.claims.running import Done, Unit
from deltatune.core.claims.table import markdown, number

NASTY = "<script>alert('&\"')</script> | `x` https://example.org"
VOID = {"meta", "input", "br", "img", "link", "hr"}
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _claim(number, paper="toy", **fields):
    run = lambda context, seed: Effects(0.0, {})  # noqa: E731
    return Claim(f"C{number}", paper, f"Statement {number} {NASTY}", f"table {number}", "difference", run,
                 (Control("random", f"beats random {NASTY}"),), (Gate("solved", "sources solve", 80.0),), **fields)  # fmt: skip


def _done(claim, seed, effect, gate=90.0):
    measured = {"effect": effect, "controls": {"random": 2.0 + 0.1 * seed}, "gates": {"solved": gate}, "records": [{"x": seed}],
                "seconds": 1.0}  # fmt: skip
    return Done(Unit(claim, "module", seed), measured)


def _plot(figure, records):
    figure.subplots().plot([record["x"] for record in records])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a report of one claim for each verdict, and the claims."""
    folder = tmp_path_factory.mktemp("report")
    reproduced = _claim(1, paper_value=NASTY, figures=(Figure("plot", f"A plot {NASTY}", _plot),), bound=1.0)
    specs = [
        (reproduced, [_done(reproduced, seed, 5.0 + 0.1 * seed) for seed in range(5)]),
        (claim := _claim(2), [_done(claim, seed, -5.0 - 0.1 * seed) for seed in range(5)]),
        (claim := _claim(3, "other"), [_done(claim, seed, (-1.0) ** seed) for seed in range(5)]),
        (claim := _claim(10, "other"), [_done(claim, seed, 1.0 + seed, gate=20.0) for seed in range(5)]),
        (claim := _claim(4, "other"), [Done(Unit(claim, "module", 0), None, f"ValueError: {NASTY}")]),
    ]
    rows = [{**outcome(claim, range(5), done), "figures": draw(claim, [{"x": 1.0}, {"x": 2.0}], folder)} for claim, done in specs]
    write_claims(folder, rows)
    write_report(folder, rows, {"command": f"deltatune reproduce {NASTY}", "seconds": 12.0, "versions": {}})
    return folder, rows


class Page(HTMLParser):
    """Checks nesting while it reads; collects elements with their attributes, and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **wanted):
        return [attributes for name, attributes, _ in self.elements if name == tag and wanted.items() <= attributes.items()]


@pytest.fixture(scope="module")
def page(made):
    return Page((made[0] / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_nested_and_its_ids_are_unique(page):
    assert page.wrong == []
    assert page.open == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_nothing_is_loaded_from_elsewhere(page, made):
    for _tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(name, "#")), attributes
    assert not page.all("link")
    assert "default-src 'none'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    style = files("deltatune.core.claims").joinpath("page.css").read_text(encoding="utf-8")
    script = files("deltatune.core.claims").joinpath("page.js").read_text(encoding="utf-8")
    for text in (style, script):
        assert not re.search(r"https?:|//\w+\.|@import|url\(|fetch\(|eval\(|innerHTML", text)


def test_every_claim_is_in_the_page_without_scripts(page, made):
    rows = [attributes for attributes in page.all("tr") if "data-verdict" in attributes]
    assert [(row["data-paper"], row["data-claim"], row["data-verdict"]) for row in rows] == [
        ("toy", "C1", "reproduced"), ("toy", "C2", "contradicted"), ("other", "C3", "inconclusive"), ("other", "C10", "void"),
        ("other", "C4", "not run"),
    ]  # fmt: skip
    assert len(page.all("article")) == len(rows)
    assert not [tag for tag, attributes, _ in page.elements if "hidden" in attributes and attributes.get("id") != "filter"]
    told = " ".join("".join(page.texts).split())
    for claim in made[1]:
        for key in ("statement", "source", "command", "rule", "reason"):
            assert " ".join(claim[key].split()) in told
        assert claim["controls"][0]["statement"] in told


def test_texts_are_escaped(page):
    assert len(page.all("script")) == 1
    assert "".join(page.texts).count("alert('&\"')") > 10
    assert all("alert" not in name for _, attributes, _ in page.elements for name in attributes)


def test_the_seeds_are_dots_and_the_interval_and_bound_are_drawn(page):
    inside = [(tag, attributes) for tag, attributes, around in page.elements if "svg" in around]
    assert sum(attributes.get("class") == "seed" for _, attributes in inside) == 4 * 5
    assert sum(attributes.get("class") == "interval" for _, attributes in inside) == 4
    assert sum(attributes.get("class") == "bound" for _, attributes in inside) == 1
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert all("seeds: " in label for label in labels)
    for _, attributes in inside:
        for name in ("x1", "x2", "cx", "x"):
            assert 0 <= float(attributes.get(name, 1)) <= 340


def test_figures_are_inside_and_described(page):
    (image,) = page.all("img")
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert image["alt"] == f"A plot {NASTY}"


def test_the_page_can_be_used_with_a_keyboard_and_a_reader(page):
    assert page.all("html", lang="en")
    assert page.all("a", href="#overview")
    assert all("scope" in attributes for attributes in page.all("th"))
    for tag, attributes, around in page.elements:
        if tag in ("input", "select"):
            assert "label" in around or "aria-label" in attributes
    assert page.all("p", role="status")
    assert [tag for tag, _, _ in page.elements if tag in ("h1", "h2", "h3")][:3] == ["h1", "h2", "h3"]
    assert len([tag for tag, _, _ in page.elements if tag in ("main", "legend", "caption")]) == 3


def _contrast(first, second):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_contrast_on_both_backgrounds(scheme):
    style = files("deltatune.core.claims").joinpath("page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    for name in ("ink", "soft", "link", "focus", "reproduced", "contradicted", "inconclusive", "void", "not-run"):
        for ground in ("paper", "raised"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_the_table_in_markdown_keeps_one_line_for_each_claim(made):
    text = (made[0] / "table.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(made[1])
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert markdown([]).startswith("# Findings\n\nno claims.")


def test_claims_are_read_back_as_written(made):
    assert read_claims(made[0]) == made[1]


def test_no_file_beside_the_figures_gets_into_the_page(made, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    claims = [{**made[1][0], "figures": [{"file": "../secret.png", "caption": "x"}, {"file": "secret.png", "caption": "x"}]}]
    write_report(tmp_path, claims, {})
    assert "data:image/png;base64,c2VjcmV0" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_numbers_are_short():
    assert [number(value) for value in (None, 0.0, -0.12345, 12345.0)] == ["–", "0", "−0.123", "1.23e+04"]  # noqa: RUF001


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.4, 0), (-1e-5, 3e-5), (0, 1234.5), (-7, 93), (0, 0)])
def test_ticks_are_few_and_inside(low, high):
    ticks = _ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """`browser(address)`: the page as the browser has it after its script ran."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    home = tmp_path_factory.mktemp("browser")

    def dump(address):
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}", "--virtual-time-budget=5000"]
        done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=False)
        if not done.stdout:
            pytest.skip(f"{program} does not start here: {done.stderr[-300:]}")
        return Page(done.stdout)

    return dump


def _shown(page):
    return [
        attributes["data-claim"] for attributes in page.all("tr") if "data-claim" in attributes and "hidden" not in attributes
    ]


def test_a_browser_filters_and_sorts(browser, made):
    address = (made[0] / "report.html").as_uri()
    plain = browser(address)
    assert "hidden" not in plain.all("section", id="filter")[0]
    assert "5 of 5 shown" in plain.texts
    assert len(plain.all("button")) == 4
    chosen = browser(f"{address}#verdict=reproduced,contradicted,void&sort=-effect")
    assert _shown(chosen) == ["C1", "C10", "C2"]
    assert "3 of 5 shown" in chosen.texts
    assert [a["aria-sort"] for a in chosen.all("th") if a.get("data-key") == "effect"] == ["descending"]
    hidden = [attributes["id"] for attributes in chosen.all("article") if "hidden" in attributes]
    assert sorted(hidden) == ["other-C3", "other-C4"]
    assert _shown(browser(f"{address}#paper=other&sort=claim")) == ["C3", "C4", "C10"]
    assert _shown(browser(f"{address}#words=c10")) == ["C10"]
