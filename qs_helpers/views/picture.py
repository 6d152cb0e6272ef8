"""One picture of a feature: how often it fires, how strongly, where, and what it promotes."""

import numpy as np
import pandas as pd

from ..evidence.figures import drawable
from ..scoring import nearest
from . import html
from .card import id_activations, logit_lens

NOWHERE = "fires nowhere in this corpus"
SMALL = {"axes.titlesize": 8, "xtick.labelsize": 7, "axes.titlelocation": "left"}


def dashboard(scope, found, layer: int, feature: int, where: pd.DataFrame, title: str):
    """(figure, points, alt text) of a feature, to be given to `qs.save_figure`.

    found: a scan of a corpus, from which density, histogram and contexts are; where: one row a
    text, with the columns kind, language and fires (bool); title: what the feature is taken for.
    The parts are density among all features, activations, logit lens, nearest features by cosine
    of their columns of W_dec, share of texts in which it fires, and two contexts of each tenth of
    its activations, strongest first.
    """
    from matplotlib import pyplot as plt

    lens, near = logit_lens(scope, layer, feature), nearest(scope, layer, feature)
    density, bars = found.density(layer), found.histogram(layer, feature)
    with plt.rc_context(SMALL):
        fig = plt.figure(figsize=(11, 7.4))
        left, right = fig.subfigures(1, 2, width_ratios=(1.15, 1))
        layout = [["density", "histogram"], ["promoted", "suppressed"], ["nearest", "where"]]
        axes = left.subplot_mosaic(layout, height_ratios=(1, 1.4, 2.4))
        _draw_density(axes["density"], density, density[feature])
        _draw_histogram(axes["histogram"], bars)
        for side, colour in (("promoted", "C2"), ("suppressed", "C5")):
            part = lens[lens.side == side].head(7)
            tokens = map(drawable, part.token)
            _draw_bars(axes[side], tokens, part.logit.abs(), colour, f"logit lens: {side}")
        part = near.head(7)
        _draw_bars(axes["nearest"], part.feature, part.cosine, "C0", "nearest features, cosine")
        axes["nearest"].set_xlim(min(0, part.cosine.min()), 1)
        shares = _draw_where(axes["where"], where)
        strips = _draw_contexts(right.subplots(), scope, found, layer, feature)
        name = f"{scope.name} · layer {layer} · feature {feature} · {title}"
        fig.suptitle(name, x=0.01, ha="left")
    kinds = where.groupby("kind").fires.mean().sort_values(ascending=False)
    told = ", ".join(f"{kind} {share:.2f}" for kind, share in kinds.items())
    how_often = f"fires on {density[feature]:.2%} of tokens" if density[feature] else NOWHERE
    alt = f"Dashboard of layer {layer}, feature {feature}: {how_often}; promotes "
    alt += f"{', '.join(lens.token[:3])}; share of texts in which it fires: {told}."
    points = pd.concat([strips, shares, near.rename(columns={"cosine": "value"}), lens])
    return fig, points, alt


def _draw_density(ax, density, own: float) -> None:
    ax.hist(density[density > 0], np.logspace(-5, 0, 40), color="0.75")
    ax.axvline(max(own, 1e-5), color="C3")
    ax.set(xscale="log", yticks=[], title=f"density {own:.2%} (line)")


def _draw_histogram(ax, bars) -> None:
    """bars: (lowest, highest activation, tokens)."""
    from matplotlib.ticker import NullLocator

    if not bars:
        ax.set(xticks=[], yticks=[], title="tokens by activation")
        _say(ax, NOWHERE, 0.5)
        return
    edges = [low for low, _, _ in bars]
    width = [high - low for low, high, _ in bars]
    ax.bar(edges, [n for *_, n in bars], width, align="edge", color="C1", ec="white")
    ax.set(xscale="log", yticks=[], title="tokens by activation")
    ax.set_xticks(edges[:: max(1, len(edges) // 4)])
    ax.xaxis.set_major_formatter("{x:.3g}")
    ax.xaxis.set_minor_locator(NullLocator())


def _say(ax, words: str, y: float) -> None:
    """Words where there is nothing to draw."""
    ax.text(0.5, y, words, size=7, ha="center", va="center", transform=ax.transAxes, color="0.4")


def _draw_bars(ax, names, values, colour: str, title: str) -> None:
    ax.barh(range(len(values)), values, color=colour, alpha=0.7)
    ax.set_yticks(range(len(values)), names, size=7)
    ax.set_title(title)
    ax.invert_yaxis()


def _draw_where(ax, where: pd.DataFrame) -> pd.DataFrame:
    """Share of texts in which it fires, by kind and language."""
    grid = where.pivot_table(values="fires", index="kind", columns="language", aggfunc="mean")
    order = where.groupby("kind").fires.mean().sort_values(ascending=False).index
    grid = grid.loc[order, where.language.value_counts().sort_index().index[:8]]
    ax.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(grid.to_numpy()):
        look = {"size": 7, "color": "black" if share > 0.5 else "white", "ha": "center"}
        ax.text(column, row, "" if np.isnan(share) else f"{share:.2f}", va="center", **look)
    ax.set_xticks(range(grid.shape[1]), grid.columns)
    ax.set_yticks(range(len(grid)), map(drawable, grid.index), size=7)
    ax.set_title("share of test texts in which it fires")
    return grid.reset_index().melt("kind", value_name="value")


def _draw_contexts(ax, scope, found, layer: int, feature: int) -> pd.DataFrame:
    ax.axis("off")
    bands = found.bands(layer, feature)
    rows = [(n, row) for n, band in enumerate(bands, 1) for row in band[:2]]
    most = max((float(row["value"]) for _, row in rows), default=1.0)
    for line, (n, row) in enumerate(rows):
        y = 1 - (line + 1) / max(20, len(rows))
        ax.text(-0.05, y, f"{n}" * (line % 2 == 0), size=7, weight="bold", transform=ax.transAxes)
        ax.text(0, y, f"{row['value']:.3g}", size=7, transform=ax.transAxes, color="0.3")
        _draw_context(ax, y, _context(scope, found, layer, feature, row), most)
    if not rows:
        _say(ax, NOWHERE, 0.95)
    ax.set_title("contexts, two of each tenth of its activations, strongest first")
    values = [{"kind": f"tenth {n}", "value": float(row["value"])} for n, row in rows]
    return pd.DataFrame(values, columns=["kind", "value"])


def _context(scope, found, layer: int, feature: int, row, width: int = 68) -> list:
    """Pieces around a context's peak, and the feature's activation at each."""
    ids = found.ids(int(row["text"])).tolist()
    acts = id_activations(scope, [ids], layer, feature)[0]
    parts = html.pieces(scope.tokenizer, ids)
    peak = next(i for i, p in enumerate(parts) if p.start <= row["position"] < p.stop)
    wide = [sum(1 + (ord(char) > 0x2E80) for char in p.shown) for p in parts]
    first = last = peak
    while sum(wide[first : last + 1]) < width and last - first < len(parts) - 1:
        first, last = max(0, first - 1), min(len(parts) - 1, last + 1)
    return [(p.shown, float(acts[p.start : p.stop].max())) for p in parts[first : last + 1]]


def _draw_context(ax, y: float, parts: list, most: float) -> None:
    """One line of text, coloured by activation; the peak has a frame."""
    x, renderer = 30.0, ax.figure.canvas.get_renderer()
    peak = max(value for _, value in parts)
    for shown, value in parts:
        look = {"fc": "C1", "alpha": min(1, 0.15 * (value > 0) + value / most), "pad": 0.8}
        look |= {"lw": 0.8 * (value == peak), "ec": "black"}
        at = {"xy": (0, y), "xycoords": "axes fraction", "xytext": (x, 0)}
        word = ax.annotate(drawable(shown), **at, textcoords="offset points", size=7, bbox=look)
        word.set_in_layout(False)
        x += word.get_window_extent(renderer).width * 72 / ax.figure.dpi


def chords(shared: pd.DataFrame, names, whole: int, title: str):
    """A figure with a circle a panel: an arc for each name, and between two of them a band.

    shared: one row a pair, with the columns panel, first, second and shared, which is the width of
    the band, and by chance; the mean of both, of `whole`, is said below each circle. An arc is as
    long as `whole`, or as all that one name shares with the others, if that is more.
    """
    from matplotlib import pyplot as plt
    from matplotlib.patches import Wedge

    panels, arc = shared.panel.unique(), 2 * np.pi / len(names)
    middle = dict(zip(names, np.pi / 2 - arc * np.arange(len(names)), strict=True))
    colour = {name: f"C{i % 8}" for i, name in enumerate(names)}
    ends = pd.concat([shared.rename(columns={side: "name"}) for side in ("first", "second")])
    most = max(whole, ends.groupby(["panel", "name"]).shared.sum().max())  # fills an arc
    size = (max(4.2, 2.1 * len(panels)), 3.0)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        here, used = shared[shared.panel == panel], dict.fromkeys(names, -0.42 * arc)
        for name, at in middle.items():
            ends = np.degrees([at - 0.42 * arc, at + 0.42 * arc])
            ax.add_patch(Wedge((0, 0), 1.08, *ends, width=0.08, color=colour[name], lw=0))
            ax.text(1.28 * np.cos(at), 1.28 * np.sin(at), name, ha="center", va="center", size=9)
        for row in here.sort_values("shared").itertuples():
            width = 0.84 * arc * row.shared / most
            angles = []
            for name in (row.first, row.second):
                angles.append(middle[name] + used[name])
                used[name] += width
            _draw_band(ax, *angles, width, colour[row.first])
        said = (
            f"{here.shared.mean():.1f} of {whole} shared\n(chance {here['by chance'].mean():.1f})"
        )
        ax.text(0, -1.5, said, ha="center", va="top", size=8)
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        ax.set_title(panel, size=10)
        ax.axis("off")
    fig.suptitle(title, size=11)
    return fig


def _draw_band(ax, first: float, second: float, width: float, colour: str) -> None:
    """A band between the angles first to first + width of a circle, and those from second."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    def points(start):
        return [(np.cos(t), np.sin(t)) for t in np.linspace(start, start + width, 9)]

    one, other, centre = points(first), points(second), (0, 0)
    corners = [*one, centre, *other, centre, one[0]]
    curve = [Path.MOVETO, *[Path.LINETO] * 8, Path.CURVE3, Path.CURVE3, *[Path.LINETO] * 8]
    path = Path(corners, [*curve, Path.CURVE3, Path.CURVE3])
    ax.add_patch(PathPatch(path, color=colour, alpha=0.55, lw=0))


def shares(table: pd.DataFrame, counts: pd.DataFrame, title: str):
    """A figure of shares, 0 to 1: a coloured cell each, which says of how many; nan is empty.

    table, counts: of the same rows and columns.
    """
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(2.6 + 1.0 * table.shape[1], 0.9 + 0.3 * len(table)))
    ax.imshow(table.astype(float), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if value == value:
            said, dark = f"{value:.0%} of {counts.iloc[row, column]:.0f}", value > 0.55
            colour = "white" if dark else "black"
            ax.text(column, row, said, ha="center", va="center", size=7.5, color=colour)
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(len(table)), table.index, size=9)
    ax.set_title(title, size=10, loc="left")
    return fig
