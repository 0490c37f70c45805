"""The front as a small static picture for a README: plain SVG, no browser and no plotting library."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from paretune.files import write_text
from paretune.findings import Findings
from paretune.report.axis import ticks
from paretune.report.fronts import FrontInfo, Series, front_info
from paretune.report.style import BLUE, FONT, GREY, INK, ORANGE, PURPLE, RED, SKY
from paretune.report.text import tick

WIDTH, HEIGHT = 760, 454
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 76, 58
MUTED = "#5a6270"
LETTER = 6.4  # the width of one, about


def front_svg(findings: Findings, path: Path) -> Path:
    """`path`, an SVG of quality against the second objective that reads on white and on dark pages."""
    return write_text(path, svg(findings.name, front_info(findings)))


def svg(name: str, info: FrontInfo) -> str:
    """The picture of one decided chart."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'font-family="{escape(FONT)}" font-size="12" fill="{INK}">',
        f"<title>{escape(f'{name}: {info.title}')}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fff"/>',
        _text(LEFT, 27, f"{name}: {info.title}", size=16, weight=600),
        *_axes(info), *_budget(info), _steps(info), *(mark for one in info.series for mark in _marks(info, one)),
        *_legend([one.role for one in info.series]), "</svg>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def _axes(info: FrontInfo) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(info.x, 6):
        x = _x(info, value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#eceef1"/>')
        parts.append(_text(x, bottom + 18, tick(value, info.x.unit), anchor="middle", colour=MUTED))
    for value in ticks(info.y, 6):
        y = _y(info, value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#eceef1"/>')
        parts.append(_text(LEFT - 8, y + 4, tick(value, info.y.unit), anchor="end", colour=MUTED))
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#c9ced6"/>')
    scale = " (logarithmic)" if info.x.log else ""
    parts.append(_text((LEFT + right) / 2, HEIGHT - 16, f"{info.x.title}{scale}", anchor="middle"))
    middle = (TOP + bottom) / 2
    turned = _text(18, middle, info.y.title, anchor="middle")
    parts.append(f'<g transform="rotate(-90 18 {middle})">{turned}</g>')
    return parts


def _budget(info: FrontInfo) -> list[str]:
    if info.budget_x is None:
        return []
    x = _x(info, info.budget_x)
    line = f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{RED}" stroke-dasharray="6 5" stroke-width="1.3"/>'
    return [line, _text(x + 6, TOP + 12, f"budget {tick(info.budget_x, info.x.unit)}", colour=RED, size=11)]


def _steps(info: FrontInfo) -> str:
    if not info.line:
        return ""
    (x, y), *rest = [(_x(info, x), _y(info, y)) for x, y in info.line]
    path = f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    return f'<path d="{path}" fill="none" stroke="{BLUE}" stroke-width="1.6" opacity=".65"/>'


def _marks(info: FrontInfo, series: Series) -> list[str]:
    places = [(_x(info, x), _y(info, y)) for x, y in zip(series.x, series.y, strict=True)]
    marks = [_mark(series.role, x, y) for x, y in places]
    labels = zip(places, series.labels, series.below, strict=False)
    return marks + [
        _text(x, y + (19 if below else -10), name, anchor="middle", colour=MUTED, size=11)
        for (x, y), name, below in labels
    ]


def _mark(role: str, x: float, y: float) -> str:
    at = f'transform="translate({x:.1f} {y:.1f})"'
    return {
        "over budget": f'<path d="M-3-3L3 3M-3 3L3-3" stroke="{GREY}" {at}/>',
        "dominated": f'<circle r="3" fill="{GREY}" opacity=".75" {at}/>',
        "seed": f'<path d="M-3-3H3V3H-3Z" fill="{SKY}" opacity=".8" {at}/>',
        "front seed": f'<path d="M-4-4H4V4H-4Z" fill="{SKY}" stroke="{BLUE}" stroke-width="1.8" {at}/>',
        "mean of runs": f'<path d="M-5 0H5" stroke="{INK}" stroke-width="1.8" {at}/>',
        "control": f'<path d="M0-6L6 0L0 6L-6 0Z" fill="{ORANGE}" stroke="#fff" {at}/>',
        "on the front": f'<circle r="4.5" fill="{BLUE}" stroke="#fff" {at}/>',
        "finish": f'<path d="M0-6.5L6 4.5H-6Z" fill="{PURPLE}" stroke="#fff" {at}/>',
        "dense": f'<path d="M0-8L2-2.6L8-2.4L3.2 1.2L4.9 7L0 3.6L-4.9 7L-3.2 1.2L-8-2.4L-2-2.6Z" fill="{INK}" {at}/>',
        "knee": f'<circle r="8.5" fill="none" stroke="{RED}" stroke-width="2.3" {at}/>',
        "confirmed on test": f'<path d="M-4-4H4V4H-4Z" fill="none" stroke="#009E73" stroke-width="1.8" {at}/>',
    }[role]


def _legend(roles: Sequence[str]) -> list[str]:
    """One row of all roles, or two where they would not fit."""
    room, parts = WIDTH - RIGHT - LEFT - 8, []
    half = len(roles) if sum(map(_width, roles)) <= room else -(-len(roles) // 2)
    for y, row in ((45, roles[:half]), (62, roles[half:])):
        x = LEFT + 8.0
        gap = min(18.0, (room - sum(map(_width, row))) / max(1, len(row)))
        for role in row:
            parts += [_mark(role, x, y), _text(x + 13, y + 4, role, colour=MUTED)]
            x += _width(role) + gap
    return parts


def _width(role: str) -> float:
    """What an entry of the legend takes: mark, letters, a little air."""
    return 13 + LETTER * len(role) + 9


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: int = 400, colour: str = INK
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _x(info: FrontInfo, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * info.x.place(value)


def _y(info: FrontInfo, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * info.y.place(value)
