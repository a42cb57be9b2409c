"""What a report shows: a function of arrays for each picture, which returns its Figure.

Those of one picture draw on the Axes that they are given, if any (in a notebook say `%matplotlib inline`
first). Names may hold anything: a `$` in them is drawn as it stands.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, SymmetricalLogLocator

from glczoo.figures.style import BLUE, GREY, PALETTE, SEQUENTIAL, SKY, axes_of, figure_of, literal

__all__ = [
    "auc_by_records",
    "block_map",
    "importance",
    "reliability",
    "responses",
    "set_sizes",
    "training_curves",
]


def training_curves(steps: Mapping[str, Mapping[str, Sequence[float | None] | np.ndarray]]) -> Figure:
    """Training loss and validation F1 of every epoch, the steps one after the other.

    Args:
        steps: what to call each step → `loss`[E] and `validation_f1`[E] (None or nan where it was not
            measured) of its epochs. Losses of different kinds cannot be compared with each other.
    """
    curves = {
        name: {key: np.array(values, float) for key, values in epochs.items()}
        for name, epochs in steps.items()
    }
    measured = any(np.isfinite(epochs["validation_f1"]).any() for epochs in curves.values())
    figure = Figure(figsize=(5.2, 4.6 if measured else 2.8), layout="constrained")
    axes = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axis, key, title in zip(
        axes, ("loss", "validation_f1"), ("training loss", "validation F1"), strict=False
    ):
        axes_of(axis)
        start = 1
        for number, (name, epochs) in enumerate(curves.items()):
            epoch = np.arange(start, start + len(epochs[key]))
            axis.plot(
                epoch,
                epochs[key],
                color=PALETTE[number % len(PALETTE)],
                marker="o",
                ms=2.5,
                lw=1.4,
                label=literal(name),
            )
            start += len(epoch)
        axis.set_ylabel(title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if all((epochs["loss"] > 0).all() for epochs in curves.values()):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel("epoch")
    return figure


def reliability(
    number: np.ndarray, probability: np.ndarray, frequency: np.ndarray, axis: Axes | None = None
) -> Figure:
    """Observed against predicted frequency: on the diagonal, a probability means what it says.

    Args:
        number: entries (a species in a survey) in every bin, [bins]; drawn as bars on a log scale.
        probability: their mean predicted probability, [bins], nan where there are none.
        frequency: their share of presences, [bins]. `metrics.reliability` gives all three.
        axis: where to draw.
    """
    axis = axes_of(axis)
    edges = np.linspace(0, 1, len(number) + 1)
    bars = axis.twinx()
    bars.bar(edges[:-1], number, np.diff(edges), align="edge", color="#DDDDDD", edgecolor="white", zorder=0)
    bars.set(yscale="log", ylim=(0.8, max(10, np.max(number)) ** 2))  # the lower half of the picture
    bars.yaxis.set_minor_locator(NullLocator())
    bars.set_yticks([10**k for k in range(0, 1 + int(np.log10(max(10, np.max(number)))))])
    bars.set_ylabel("entries (bars, log scale)", color=GREY, fontsize=8)
    bars.tick_params(labelsize=7, colors=GREY)
    bars.spines[["top", "left"]].set_visible(False)
    axis.set_zorder(bars.get_zorder() + 1)
    axis.patch.set_visible(False)
    axis.plot([0, 1], [0, 1], "--", color=GREY, lw=1, label="perfectly calibrated")
    seen = np.asarray(number) > 0
    axis.plot(
        np.asarray(probability)[seen],
        np.asarray(frequency)[seen],
        "o-",
        color=BLUE,
        ms=4,
        clip_on=False,
        label="model",
    )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="observed frequency")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure_of(axis)


def set_sizes(predicted: np.ndarray, observed: np.ndarray, axis: Axes | None = None) -> Figure:
    """How many surveys have how many species: predicted (filled) and observed (outlined). int[N] each."""
    axis = axes_of(axis)
    largest = max(np.max(predicted), np.max(observed))
    width = max(1, int(np.ceil((largest + 1) / 40)))
    edges = [left - 0.5 for left in range(0, int(largest) + width + 1, width)]
    axis.hist(predicted, edges, color=SKY, label=f"predicted, mean {np.mean(predicted):.1f}")
    axis.hist(
        observed,
        edges,
        color="black",
        histtype="step",
        lw=1.5,
        label=f"observed, mean {np.mean(observed):.1f}",
    )
    axis.set(xlabel="species in a survey", ylabel="surveys", xlim=(edges[0], edges[-1]))
    axis.legend(frameon=False, fontsize=8)
    return figure_of(axis)


def auc_by_records(auc: np.ndarray, records: Mapping[str, np.ndarray]) -> Figure:
    """AUC of every species against how often the training samples name it; the line joins medians.

    Args:
        auc: [K], nan where it is undefined.
        records: what to call a table → its number of records of every species, [K].
    """
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(records)), sharey=True, squeeze=False)[0]
    known = np.isfinite(auc)
    for number, (axis, (name, counts)) in enumerate(zip(axes, records.items(), strict=False)):
        axes_of(axis)
        x, y = np.asarray(counts)[known], np.asarray(auc)[known]
        axis.axhline(0.5, color=GREY, lw=1, ls="--")
        axis.scatter(
            x,
            y,
            s=14,
            color=PALETTE[number],
            alpha=0.6 if len(x) < 500 else 0.25,
            linewidths=0,
            rasterized=len(x) > 1000,
        )
        if len(x) >= 20:
            groups = np.array_split(np.argsort(x, kind="stable"), min(10, len(x) // 5))
            middle = [(np.median(x[g]), np.median(y[g])) for g in groups]
            axis.plot(*zip(*middle, strict=True), color="black", lw=1.4)
        least = x.min(initial=x.max(initial=1))
        if least > 0:
            most = x.max(initial=least)
            axis.set(xscale="log", xlim=(least / 1.5, 1.5 * most))
            axis.xaxis.set_minor_formatter(NullFormatter())
            if most < 50 * least:  # powers of ten alone would be one tick, or none
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(-0.2, max(2, 1.5 * x.max()))
            axis.xaxis.set_major_locator(SymmetricalLogLocator(linthresh=1, base=10))
        axis.set_xlabel(literal(f"records, {name}"))
    axes[0].set_ylabel("AUC of the species")
    return figure


def block_map(
    bounds: np.ndarray, values: np.ndarray, number: np.ndarray, label: str, axis: Axes | None = None
) -> Figure:
    """A map of blocks in the colour of their value, with the number of surveys in each where it has room.

    Args:
        bounds: west, south, east, north in degrees, [n, 4].
        values: [n].
        number: surveys, [n].
        label: what the values are.
        axis: where to draw.
    """
    west, south = bounds[:, :2].min(0)
    east, north = bounds[:, 2:].max(0)
    narrow = float(np.cos(np.radians((south + north) / 2)))
    aspect = (north - south) / (east - west) / narrow
    axis = axes_of(axis, height=0.6 + 3.8 * float(np.clip(aspect, 0.3, 1.6)))
    colours = ScalarMappable(Normalize(np.min(values), np.max(values)), SEQUENTIAL)
    room = (bounds[:, 2] - bounds[:, 0]) / max(east - west, (north - south) / narrow) > 0.045
    for (w, s, e, n), value, many, fits in zip(bounds, values, number, room, strict=True):
        red, green, blue, _ = colours.to_rgba(value)
        axis.add_patch(Rectangle((w, s), e - w, n - s, fc=(red, green, blue), ec="white", lw=0.8))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        if fits:
            axis.text(
                (w + e) / 2,
                (s + n) / 2,
                f"{many}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if dark else "black",
            )
    pad_x, pad_y = 0.03 * (east - west), 0.03 * (north - south)
    axis.set(
        xlim=(west - pad_x, east + pad_x),
        ylim=(south - pad_y, north + pad_y),
        xlabel="longitude, °",
        ylabel="latitude, °",
    )
    axis.set_aspect(1 / narrow)
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(nbins=6)
    bar = figure_of(axis).colorbar(colours, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label(literal(label))
    bar.ax.tick_params(labelsize=8)
    return figure_of(axis)


def importance(
    names: Sequence[str],
    lost: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    label: str,
    axis: Axes | None = None,
) -> Figure:
    """Bars of what is lost without each of several inputs, with intervals; the largest stands at the top.

    Args:
        names: of the inputs.
        lost: [n].
        low: lower end of the interval, [n].
        high: upper end, [n].
        label: what is lost.
        axis: where to draw.
    """
    axis = axes_of(axis, height=0.9 + 0.22 * len(names))
    order = np.argsort(lost, kind="stable")
    lost, low, high = (np.asarray(values)[order] for values in (lost, low, high))
    place = np.arange(len(order))
    axis.barh(place, lost, color=BLUE, height=0.7)
    axis.errorbar(
        lost,
        place,
        xerr=np.maximum(0, [lost - low, high - lost]),
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=2,
    )
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(place, [literal(names[i], 32) for i in order])
    axis.set(ylim=(-0.6, len(order) - 0.4), xlabel=literal(label))
    return figure_of(axis)


def responses(
    values: np.ndarray,
    answers: np.ndarray,
    bands: Sequence[str],
    species: Sequence[str],
    at: np.ndarray | None = None,
    levels: Mapping[str, tuple[Sequence[str], np.ndarray]] | None = None,
    columns: int = 2,
    answer: str = "probability",
) -> Figure:
    """What is answered of each species along each band: curves of numbers, bars of levels.

    Args:
        values: of every band of numbers along its range, [B, T].
        answers: [B, T, n].
        bands: what to call the bands, unit included.
        species: what to call the species, n.
        at: value of each band while others vary, [B]: a thin line.
        levels: of every categorical band: names of its L levels, and answers [L, n].
        columns: pictures in a row.
        answer: what is shown.
    """
    levels = levels or {}
    rows = -(-(len(bands) + len(levels)) // columns)
    figure = Figure(figsize=(2.6 * columns, 1.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    used = [axes_of(axis) for axis in axes.flat[: len(bands) + len(levels)]]
    for axis in axes.flat[len(used) :]:
        axis.axis("off")
    for axis, title in zip(used, [*bands, *levels], strict=True):
        axis.set_title(literal(title, 34), fontsize=8.5, loc="left")
        axis.tick_params(labelsize=7)
    for c, axis in enumerate(used[: len(bands)]):
        if at is not None:
            axis.axvline(at[c], color="#BBBBBB", lw=0.8)
        for i, name in enumerate(species):
            style = ("-", "--", ":", "-.")[i % 4]
            colour = PALETTE[i % len(PALETTE)]
            axis.plot(values[c], answers[c, :, i], style, color=colour, lw=1.6, label=literal(name, 40))
        axis.locator_params(axis="x", nbins=4)
    for axis, (names, of_levels) in zip(used[len(bands) :], levels.values(), strict=True):
        _level_bars(axis, names, of_levels, species)
    used[0].set_ylim(0, None)
    figure.supylabel(answer, fontsize=9)
    handles, labels = used[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(2 * columns, len(labels)),
        frameon=False,
        fontsize=8,
        handlelength=3,
    )
    return figure


def _level_bars(axis: Axes, levels: Sequence[str], answers: np.ndarray, species: Sequence[str]) -> None:
    """A group of bars for each level, a bar for each species."""
    width = 0.8 / max(1, len(species))
    for i, name in enumerate(species):
        places = np.arange(len(levels)) + (i - (len(species) - 1) / 2) * width
        colour = PALETTE[i % len(PALETTE)]
        axis.bar(places, answers[:, i], width, color=colour, label=literal(name, 40))
    axis.set_xticks(np.arange(len(levels)), [literal(level, 12) for level in levels])
    if len(levels) > 8:
        axis.tick_params(axis="x", labelrotation=90)
