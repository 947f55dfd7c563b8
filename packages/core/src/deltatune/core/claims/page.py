"""The report: one file that opens without a network, from `claims.json`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from deltatune.core.claims.dots import drawing
from deltatune.core.claims.figures import FOLDER
from deltatune.core.claims.table import measured, number, summary
from deltatune.core.claims.verdict import VERDICTS

# Nothing outside of the file can be loaded, whatever a claim's text holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_HEADS = (
    'class="wide" data-key="paper">Paper', 'data-key="claim">Claim', ">Statement", 'class="wide">Published',
    'class="wide" data-key="effect" data-numeric>Measured', 'data-key="verdict">Verdict',
)  # fmt: skip
NOTES = (
    "A seed changes the initial values of delta and head, the order of the data, dropout and the few-shot sample together. Seeds "
    "are declared before the run and none is left out.",
    "The pre-trained models and source deltas of the built-in world come from one pre-training run, so an interval speaks about "
    "tuning on these models, not about other pre-training.",
    "In the drawings a circle is a seed, the filled one the mean, the bar the 95% interval, the dashed line the bound.",
)


def page(claims: Sequence[Mapping[str, Any]], facts: Mapping[str, str], folder: Path) -> str:
    """The whole page.

    Args:
        claims: objects of `claims.json`.
        facts: named texts about the run, shown on top.
        folder: where the files of their figures are.
    """
    style, script = (
        files("deltatune.core.claims").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    about = " · ".join(f"{escape(name)}: {escape(text)}" for name, text in facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in NOTES)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>deltatune: findings</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#overview">Skip to the findings</a>
<header>
<h1>Findings, reproduced or not</h1>
<p><strong>{escape(summary(claims))}.</strong></p>
<p class="facts">{about}</p>
</header>
<main>
{_filter(claims)}
{_overview(claims)}
<h2 id="details">Claims</h2>
<div id="claims">
{"".join(_article(claim, folder) for claim in claims)}</div>
<h2>How to read this page</h2>
<ul>{notes}</ul>
</main>
<script>
{script}</script>
</body>
</html>
"""


def _filter(claims: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [verdict for verdict in VERDICTS if any(claim["verdict"] == verdict for claim in claims)]
    boxes = "".join(
        f'<label><input type="checkbox" name="verdict" value="{verdict}" checked>'
        f'<span class="verdict {_class(verdict)}">{verdict}</span></label>'
        for verdict in verdicts
    )
    papers = dict.fromkeys(claim["paper"] for claim in claims)
    options = "".join(f'<option value="{escape(paper)}">{escape(paper)}</option>' for paper in papers)
    return f"""<section id="filter" class="filter" aria-label="Choose findings" hidden>
<form class="filter" style="display: contents">
<fieldset><legend>Verdict</legend>{boxes}</fieldset>
<label class="field"><span>Paper</span><select name="paper"><option value="">all</option>{options}</select></label>
<label class="field"><span>Words</span><input type="search" name="words" autocomplete="off"></label>
</form>
<p role="status"></p>
</section>"""


def _overview(claims: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th scope="col" {head}</th>' for head in _HEADS)
    rows = "".join(_row(claim) for claim in claims)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Table of findings">
<table id="overview">
<caption>All findings; the name of a claim leads to its details.</caption>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>"""


def _row(claim: Mapping[str, Any]) -> str:
    verdict = claim["verdict"]
    data = {
        "article": _anchor(claim),
        "paper": claim["paper"],
        "claim": claim["id"],
        "effect": "" if claim["effect"] is None else repr(claim["effect"]),
        "verdict": verdict,
    }
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    return (
        f'<tr{attributes}><td class="wide">{escape(claim["paper"])}</td><th scope="row"><a href="#{escape(_anchor(claim))}">'
        f'<span class="narrow">{escape(claim["paper"])} </span>{escape(claim["id"])}</a></th>'
        f'<td>{escape(claim["statement"])}</td><td class="wide">{escape(claim["paper_value"] or "–")}</td>'  # noqa: RUF001
        f'<td class="wide number">{escape(measured(claim))}</td>'
        f'<td><span class="verdict {_class(verdict)}">{verdict}</span></td></tr>\n'
    )


def _article(claim: Mapping[str, Any], folder: Path) -> str:
    seeds = f"{claim['seeds'][0]} to {claim['seeds'][-1]}" if claim["seeds"] else "none"
    spread = f" ({claim['method']})" if claim["method"] else ""
    terms = [
        ("Verdict", f'<span class="verdict {_class(claim["verdict"])}">{claim["verdict"]}</span>: {escape(claim["reason"])}'),
        ("Published", escape(claim["paper_value"] or "no number known")),
        ("Measured", escape(measured(claim) + spread) + drawing(claim)),
        ("What is computed", escape(claim["statistic"])),
        ("Rule", escape(claim["rule"])),
        ("Gate", _gates(claim["gate"]["conditions"])),
        ("Controls", _controls(claim)),
        ("Seeds", escape(f"{seeds}; {claim['seconds']:.0f} s of work; tier: {claim['tier']}")),
        ("Source", escape(claim["source"])),
        ("Run again", f'<pre tabindex="0"><code>{escape(claim["command"])}</code></pre>'),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>\n" for name, text in terms)
    anchor = escape(_anchor(claim))
    return f"""<article id="{anchor}" aria-labelledby="{anchor}-title">
<header><span class="soft">{escape(claim["paper"])} {escape(claim["id"])}</span></header>
<h3 id="{anchor}-title">{escape(claim["statement"])}</h3>
<dl>
{listed}</dl>
{_figures(claim.get("figures", []), folder)}</article>
"""


def _gates(conditions: Sequence[Mapping[str, Any]]) -> str:
    if not conditions:
        return "none: the value is exact"
    holding = {True: "holds", False: "fails", None: "–"}  # noqa: RUF001
    items = (f"{c['statement']}: measured {number(c['measured'])}, {holding[c['holds']]}" for c in conditions)
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _controls(claim: Mapping[str, Any]) -> str:
    holding = {True: "holds", False: "does not hold", None: "–"}  # noqa: RUF001
    rows = "".join(
        f'<tr><th scope="row">{escape(c["statement"])}</th>'
        f'<td class="number">{escape(measured({**c, "unit": claim["unit"]}))}</td>'
        f"<td>{holding[c['holds']]}</td></tr>"
        for c in claim["controls"]
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Control", "Measured", "Holds"))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _figures(figures: Sequence[Mapping[str, str]], folder: Path) -> str:
    shown = []
    for figure in figures:
        caption = escape(figure["caption"])
        # By its name alone: no other file gets into the page, whatever claims.json says.
        file = folder / FOLDER / Path(figure["file"]).name if "file" in figure else None
        if file is None or not file.is_file():
            shown.append(f"<p>{caption} (could not be drawn: {escape(figure.get('error', 'its file is missing'))})</p>\n")
            continue
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        picture = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        shown.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n")
    return "".join(shown)


def _anchor(claim: Mapping[str, Any]) -> str:
    return f"{claim['paper']}-{claim['id']}"


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")
