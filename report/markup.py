"""Small pieces of HTML; every text that comes in is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

CONFIG = {"displayModeBar": False, "responsive": True}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell: `aside` stands small under the text, numbers align to the right, long texts wrap."""

    text: str
    aside: str = ""
    number: bool = True
    long: bool = False
    span: int = 1


def words(text: str, *, long: bool = False, span: int = 1) -> Cell:
    """A cell of words, aligned to the left."""
    return Cell(text=text, number=False, long=long, span=span)


def table(header: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls sideways where the screen is too narrow."""
    head = "".join(_cell(cell, "th") for cell in header)
    body = "".join(f"<tr>{''.join(_cell(cell, 'td') for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


def section(title: str, *parts: str) -> str:
    """A part of the page under a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style sheet."""
    # A number and its per cent sign stay on one line.
    return f"<p{_class(kind)}>{escape(text).replace(' %', '&nbsp;%')}</p>\n"


def details(title: str, *parts: str, shown: bool) -> str:
    """Something to fold away under its title, unfolded at first if `shown`."""
    state = " open" if shown else ""
    return f"<details{state}>\n<summary>{escape(title)}</summary>\n{''.join(parts)}</details>\n"


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>\n"


def code(text: str) -> str:
    """A block to copy into a terminal."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def chart(figure: go.Figure, name: str, min_width: int = 0, *, tall: bool = False) -> str:
    """A figure as part of a page that holds plotly.js already.

    Narrower screens scroll below `min_width` pixels. A `tall` figure scrolls in a box of the screen's height.
    """
    # A fixed id instead of Plotly's random one: the same study gives the same page, byte for byte.
    inner = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG)
    kind = "scroll tall" if tall else "scroll"
    return f'<div class="{kind}"><div style="min-width:{min_width}px">{inner}</div></div>\n'


def _cell(cell: Cell, tag: str) -> str:
    kind = _class("number" if cell.number else "long" if cell.long else "")
    span = f' colspan="{cell.span}"' if cell.span > 1 else ""
    aside = f"<small>{escape(cell.aside)}</small>" if cell.aside else ""
    return f"<{tag}{kind}{span}>{escape(cell.text)}{aside}</{tag}>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
