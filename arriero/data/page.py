"""The inspect report as one HTML page: figures, pictures, rows with their tokens coloured. Needs no network."""

from __future__ import annotations

import html
from collections.abc import Callable

from arriero.data.report import Report, Shown

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } rect { fill: #2f6f62; } text { font-size: 11px; }
pre { white-space: pre-wrap; background: #f6f6f4; padding: .8rem; border-radius: .4rem; }
.loss { color: #06602f; background: #d9f2e3; } .prompt { color: #666; } .special { font-weight: 600; }
.loss span:hover, .prompt span:hover, span.t:hover { outline: 1px solid #2f6f62; }
"""


def page(report: Report, token: Callable[[int], str], is_special: Callable[[int], bool]) -> str:
    """The whole page. `token` gives an id's text, `is_special` says whether it is a special token."""
    title = html.escape(", ".join(report.files[:3]))
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{report.rows} rows in the {report.format} format; system prompt: "
        f"{html.escape(report.system or 'the chat template’s own')}</p>",
        _figures(report),
        "<h2>Lengths in tokens</h2>",
        _histogram(report),
        "<h2>What an epoch computes</h2>",
        _savings(report),
        _dropped(report),
        "<h2>Rows as training sees them</h2>",
        '<p><span class="prompt">prompt</span>, <span class="loss">loss</span>, '
        '<span class="special">special tokens</span></p>',
        *(_row(shown, token, is_special) for shown in report.examples),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _figures(report: Report) -> str:
    names = ("kept", "cut", "duplicates", "contradictions", "held_out", "tokens", "loss_tokens", "longest", "median")
    rows = [("dropped", len(report.dropped)), *((name, getattr(report, name)) for name in names)]
    return _table([(name.replace("_", " "), f"{value:,}") for name, value in rows])


def _savings(report: Report) -> str:
    shared = report.tokens - report.computed_tokens
    return _table(
        [
            ("tokens that all rows begin with", f"{report.prefix_tokens:,}"),
            ("tokens without sharing them", f"{report.tokens:,}"),
            (f"with sharing, {report.batch_size} rows a step", f"{report.computed_tokens:,}"),
            ("saved", f"{shared / report.tokens:.0%}"),
        ]
    )


def _table(rows: list[tuple[str, str]]) -> str:
    cells = (f'<tr><th>{html.escape(name)}</th><td class="n">{html.escape(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _histogram(report: Report, width: int = 800, height: int = 200) -> str:
    """Bars of rows by length, with the count over each and the length under it."""
    most = max(bar.rows for bar in report.lengths)
    step = width / len(report.lengths)
    bars = []
    for index, bar in enumerate(report.lengths):
        x, tall = index * step, height * bar.rows / most
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{height - tall + 20:.1f}" width="{step - 2:.1f}" height="{tall:.1f}">'
            f"<title>{bar.rows} rows of {bar.first} to {bar.last} tokens</title></rect>"
            f'<text x="{x + step / 2:.1f}" y="{height - tall + 15:.1f}" text-anchor="middle">{bar.rows or ""}</text>'
            f'<text x="{x + 1:.1f}" y="{height + 34}">{bar.first}</text>'
        )
    return f'<svg viewBox="0 0 {width} {height + 40}" role="img" width="100%">{"".join(bars)}</svg>'


def _dropped(report: Report, most: int = 200) -> str:
    if not report.dropped:
        return ""
    lines = "".join(
        f'<tr><td>{html.escape(drop.file)}</td><td class="n">{drop.row}</td><td>{html.escape(drop.reason)}</td></tr>'
        for drop in report.dropped[:most]
    )
    more = f"<p>and {len(report.dropped) - most} more</p>" if len(report.dropped) > most else ""
    return f"<h2>Dropped rows</h2><table><tr><th>file</th><th>row</th><th>reason</th></tr>{lines}</table>{more}"


def _row(shown: Shown, token: Callable[[int], str], is_special: Callable[[int], bool]) -> str:
    pieces = []
    for number, loss in zip(shown.ids, shown.mask, strict=True):
        kind = ("loss" if loss else "prompt") + (" special" if is_special(number) else "")
        pieces.append(f'<span class="t {kind}" title="{number}">{html.escape(token(number))}</span>')
    where = f"{html.escape(shown.file)}, row {shown.row}: {len(shown.ids)} tokens, {sum(shown.mask)} loss"
    return f"<h3>{where}</h3><pre>{''.join(pieces)}</pre>"
