"""Colours, type and the page's style sheet."""

INK, GREY, BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#1f2328", "#a3a9b3", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
)  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LINES: dict[str, object] = {
    "gridcolor": "#eceef1",
    "linecolor": "#c9ced6",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#c9ced6",
    "title_font_size": 13,
    "automargin": True,
}
# Light is little, dark is much; light enough at the dark end for black numbers to be read beside white ones.
PALE = [[0.0, "#f7fbff"], [0.35, "#c6dbef"], [0.7, "#6baed6"], [1.0, "#2171b5"]]

# Harm, from none to much.
HARM = [[0.0, "#fffaf3"], [0.35, "#fde0b2"], [0.7, "#f9a65a"], [1.0, "#d55e00"]]

# What is good is dark, what is bad fades.
FADING = [[0.0, "#08306b"], [0.4, "#0072B2"], [0.75, "#9fc5e8"], [1.0, "#dde1e6"]]

CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1f2328; line-height: 1.5; -webkit-text-size-adjust: 100%;
  font: 16px/1.5 FONT; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .3rem; padding-top: 1rem; border-top: 1px solid #e4e7eb; }
h3 { font-size: 1rem; margin: 1.6rem 0 0; }
summary { font-weight: 600; margin: 1.4rem 0 0; cursor: pointer; overflow-wrap: anywhere; }
details tr:last-child td { font-weight: 600; }
p { margin: .3rem 0 .6rem; max-width: 46rem; }
.verdict { font-size: 1.15rem; max-width: none; }
.quiet { color: #5a6270; font-size: .92rem; }
.scroll { overflow-x: auto; }
.tall { max-height: 85vh; overflow-y: auto; border: 1px solid #e4e7eb; border-radius: 6px; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem 1.4rem .4rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { color: #5a6270; font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td:first-child { min-width: 6rem; }
td small { display: block; color: #5a6270; }
td.long { overflow-wrap: anywhere; min-width: 12rem; }
pre { background: #f5f6f8; border-radius: 6px; padding: .8rem 1rem; margin: .6rem 0;
  overflow-x: auto; font-size: .88rem; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 40rem) { main { padding: 1.2rem .9rem 3rem; } th, td { padding-right: .8rem; }
  h1 { font-size: 1.5rem; } }
@media print { .scroll, .tall { overflow: visible; max-height: none; } h2 { break-after: avoid; } }
""".replace("FONT", FONT)
