"""The map that is clicked: a pixel is the place that is drawn there."""

import numpy as np
import pytest

from glczoo.figures.click_map import ClickMap

EXTENTS = [(5.0, 5.5, 46.0, 47.0), (-60.0, 40.0, -10.0, 10.0), (0.0, 0.1, 0.0, 9.0)]


def two_fields(extent: tuple[float, float, float, float]) -> tuple[ClickMap, tuple[float, float]]:
    """A map whose north-west, to three quarters of the width and one of the height, has another colour."""
    west, east, south, north = extent
    values = np.zeros((40, 40))
    values[:10, :30] = 1
    drawn = ClickMap(values, extent, (np.array([west - 1]), np.array([south - 1])))
    return drawn, (west + 0.75 * (east - west), north - 0.25 * (north - south))


@pytest.mark.parametrize("extent", EXTENTS)
def test_two_fields_of_colour_meet_at_the_pixel_of_their_corner(extent):
    drawn, (lon, lat) = two_fields(extent)
    x, y = drawn.pixel(lon, lat)
    assert drawn.place(x, y) == pytest.approx((lon, lat))
    bright = drawn.pixels[round(y) - 3, round(x) - 3]
    row = (drawn.pixels[round(y) - 3] == bright).all(-1).nonzero()[0]
    column = (drawn.pixels[:, round(x) - 3] == bright).all(-1).nonzero()[0]
    assert row.max() + 1 == pytest.approx(x, abs=1) and column.max() + 1 == pytest.approx(y, abs=1)
    left, top = drawn.pixel(extent[0], extent[3])
    assert row.min() == pytest.approx(left, abs=3) and column.min() == pytest.approx(top, abs=3)  # the frame


def test_the_margin_is_no_place():
    drawn, (lon, lat) = two_fields(EXTENTS[0])
    x, _ = drawn.pixel(lon, lat)
    left, top = drawn.pixel(EXTENTS[0][0], EXTENTS[0][3])
    assert drawn.place(left - 3, top + 9) is None and drawn.place(x, 0) is None


@pytest.mark.parametrize("extent", EXTENTS)
def test_a_ring_lies_around_its_place(extent):
    drawn, (lon, lat) = two_fields(extent)
    ring = (drawn.marked(lon, lat) == [0xD5, 0x5E, 0x00]).all(-1).nonzero()
    assert (ring[1].mean() + 0.5, ring[0].mean() + 0.5) == pytest.approx(drawn.pixel(lon, lat), abs=0.5)
