"""Small plots as inline SVG: histograms, bars, an availability matrix. Colours come from the page's style sheet."""

import html
from collections.abc import Mapping, Sequence

from training_core.data.quality.summary import Bins

_WIDTH, _HEIGHT = 200, 56


def histogram(bins: Bins, label: str) -> str:
    """Bars for the counts of bins, their range written below; empty text without any."""
    if not bins.counts:
        return ""
    most = max(*bins.counts, 1)
    step = _WIDTH / len(bins.counts)
    gap = min(1.5, 0.15 * step) if bins.edges else min(6.0, 0.3 * step)
    bars = []
    for place, count in enumerate(bins.counts):
        height = _bar_height(count, most)
        where = (
            f"{bins.values[place]:.6g}" if bins.values else f"{bins.edges[place]:.4g} to {bins.edges[place + 1]:.4g}"
        )
        bars.append(
            f'<rect x="{place * step + gap / 2:.2f}" y="{_HEIGHT - height:.2f}" width="{step - gap:.2f}" '
            f'height="{height:.2f}"><title>{where}: {count}</title></rect>'
        )
    ends = (bins.values or bins.edges)[0], (bins.values or bins.edges)[-1]
    ends = tuple(f"{end:.4g}" for end in ends) if len(bins.counts) > 1 or bins.edges else (f"{ends[0]:.4g}", "")
    return _figure(
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(bars)}</svg>',
        *ends,
    )


def feature_band(mean: Sequence[float], std: Sequence[float], label: str) -> str:
    """A line through the means of the features of a vector, in a band of one standard deviation."""
    low = [m - s for m, s in zip(mean, std, strict=True)]
    high = [m + s for m, s in zip(mean, std, strict=True)]
    least, greatest = min(low), max(high)
    span = greatest - least
    if len(mean) < 2 or not 0 < span < float("inf"):
        return ""

    def points(values: Sequence[float]) -> list[str]:
        step = _WIDTH / (len(values) - 1)
        return [f"{i * step:.2f},{_HEIGHT * (greatest - value) / span:.2f}" for i, value in enumerate(values)]

    band = " ".join([*points(high), *reversed(points(low))])
    return _figure(
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}"><polygon points="{band}"/>'
        f'<polyline points="{" ".join(points(mean))}"/></svg>',
        "feature 0",
        f"{len(mean) - 1}",
    )


def ranking(items: Sequence[tuple[str, int]], total: int, most_shown: int = 5) -> str:
    """Horizontal bars for the most frequent names, with their share of `total`."""
    shown = list(items[:most_shown])
    most = max((count for _, count in shown), default=1) or 1
    rows = "".join(
        f'<div class="rank" title="{html.escape(name)}: {count}"><span>{html.escape(name) or "(blank)"}</span>'
        f'<i><b style="width:{100 * count / most:.1f}%"></b></i><em>{_percent(count / max(total, 1))}</em></div>'
        for name, count in shown
    )
    return f'<div class="ranking">{rows}</div>'


def availability_matrix(shares: Mapping[str, Mapping[str, float]], splits: Mapping[str, int]) -> str:
    """Modalities by splits; the fuller the cell, the more rows have the modality."""
    head = "".join(f"<th>{html.escape(split)}<small>{rows:,} rows</small></th>" for split, rows in splits.items())
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(
            f'<td><div class="cell"><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="rest" width="100" height="10"/><rect width="{100 * of[split]:.2f}" height="10"/></svg>'
            f"<span>{_percent(of[split])}</span></div></td>"
            for split in splits
        )
        + "</tr>"
        for name, of in shares.items()
    )
    return f'<table class="matrix"><tr><th></th>{head}</tr>{body}</table>'


def grouped_bars(names: Sequence[str], counts: Mapping[str, Sequence[int]], totals: Mapping[str, int]) -> str:
    """Per name a row with one bar per split: its share of the rows of that split."""
    share = {split: [c / max(totals[split], 1) for c in values] for split, values in counts.items()}
    most = max((max(values, default=0.0) for values in share.values()), default=1.0) or 1.0
    rows = []
    for place, name in enumerate(names):
        bars = "".join(
            f'<b class="{split}" style="width:{100 * values[place] / most:.2f}%" '
            f'title="{split}: {counts[split][place]} rows"></b>'
            for split, values in share.items()
        )
        numbers = " · ".join(f"{values[place]:,}" for values in counts.values())
        rows.append(f'<div class="rank"><span>{html.escape(name)}</span><i>{bars}</i><em>{numbers}</em></div>')
    legend = "".join(f'<span class="{split}">{split}</span>' for split in counts)
    return f'<div class="legend">{legend}</div><div class="ranking wide">{"".join(rows)}</div>'


def _bar_height(count: int, most: int) -> float:
    """Never quite nothing where there is something."""
    return max(_HEIGHT * count / most, 1.0) if count else 0.0


def _figure(svg: str, left: str, right: str) -> str:
    return f'<div class="figure">{svg}<div class="ends"><span>{left}</span><span>{right}</span></div></div>'


def _percent(share: float) -> str:
    """A share as a person reads it; all and nothing only when it is exactly so."""
    if share in {0.0, 1.0}:
        return f"{share:.0%}"
    return "<0.1%" if share < 0.001 else ">99.9%" if share > 0.999 else f"{share:.1%}"
