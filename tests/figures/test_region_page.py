"""The page about a region shows what it is given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from glczoo.figures.region import RegionPage, Thumbnail, draw_region


@pytest.fixture(scope="module")
def figure() -> Figure:
    """Three records and two surveys, two suspicious points, one of them off the map, and 60 bands."""
    lon, lat = np.array([1.0, 2.0, 3.0]), np.array([50.0, 51.0, 52.0])
    bands = [
        Thumbnail("climate  1 km" if i < 20 else "soil", f"b{i}", np.full((9, 12), i or np.nan), f"{i} m")
        for i in range(60)
    ]
    return draw_region(
        RegionPage(
            title="Region x",
            summary=["one", "two"],
            land=np.ones((4, 4), bool),
            extent=(0, 4, 49, 53),
            tables={"po": (lon, lat), "pa": (lon[:2], lat[:2])},
            suspects={"po": {"odd": (lon[:1], lat[:1]), "far": (np.array([100.0]), np.array([0.0]))}},
            records={"po": np.array([5, 0, 1]), "pa": np.array([2, 2, 1])},
            thumbnails=bands,
        )
    )


def titles(figure: Figure) -> set[str]:
    return {axis.get_title(loc) for axis in figure.axes for loc in ("left", "center")}


def test_each_table_has_its_map(figure: Figure) -> None:
    assert {"3 presence-only records", "2 presence-absence surveys"} <= titles(figure)


def test_suspicious_points_off_the_map_are_counted_on_the_globe(figure: Figure) -> None:
    assert "Where it lies; 1 points elsewhere" in titles(figure)


def test_the_legend_counts_what_is_suspicious(figure: Figure) -> None:
    legends = [axis.get_legend_handles_labels()[1] for axis in figure.axes]
    assert ["odd: 1 PO", "far: 1 PO"] in legends


def test_of_many_bands_the_first_are_shown_and_the_rest_counted(figure: Figure) -> None:
    assert {"b0", "b47"} <= titles(figure) and "b48" not in titles(figure)
    assert any("the first 48 of 60" in text.get_text() for text in figure.texts)


def test_a_group_of_bands_bears_its_name_once(figure: Figure) -> None:
    heads = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert heads.count("climate  1 km") == 1 and heads.count("soil") == 1


def test_species_are_ranked_by_their_records(figure: Figure) -> None:
    ranks = next(axis for axis in figure.axes if axis.get_title("left") == "Records of each species")
    assert [line.get_ydata().tolist() for line in ranks.lines] == [[5, 1], [2, 2, 1]]
