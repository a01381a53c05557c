"""Small charts as SVG, without scripts and outside resources; they fit light and dark backgrounds."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 150  # user units; the chart scales with the page
COLORS = {
    "accepted": "#2a7fb8",
    "refused": "#b8772a",
    "success": "#2e9e5b",
    "deferral": "#d0a21c",
    "failure": "#c8423b",
}


def bars(title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Stacked columns, one for each label; each has its figures as a tooltip."""
    columns = list(zip(*(values for _, values in series), strict=True))
    highest = max((sum(column) for column in columns), default=0) or 1
    width = WIDTH / max(1, len(labels))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 36}" role="img" aria-label="{escape(title)}" class="chart">']
    parts.append(f'<text x="0" y="12" class="axis">{escape(title)}: at most {highest}</text>')
    for place, (label, column) in enumerate(zip(labels, columns, strict=True)):
        bottom = float(HEIGHT + 18)
        told = ", ".join(f"{name} {value}" for (name, _), value in zip(series, column, strict=True))
        parts.append(f"<g><title>{escape(label)}: {escape(told)}</title>")
        for (name, _), value in zip(series, column, strict=True):
            tall = value / highest * HEIGHT
            bottom -= tall
            where = (
                f'x="{place * width + 1:.1f}" y="{bottom:.1f}" width="{max(1.0, width - 2):.1f}" height="{tall:.1f}"'
            )
            parts.append(f'<rect {where} fill="{COLORS.get(name, "#888")}"/>')
        parts.append("</g>")
    every = max(1, len(labels) // 8)
    for place in range(0, len(labels), every):
        parts.append(f'<text x="{place * width:.1f}" y="{HEIGHT + 33}" class="axis">{escape(labels[place])}</text>')
    parts.append("</svg>")
    return "".join(parts)
