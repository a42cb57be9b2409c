"""The report's pictures show the numbers that they are given."""

import numpy as np
from matplotlib.figure import Figure

from glczoo.figures.report import (
    auc_by_records,
    block_map,
    importance,
    reliability,
    responses,
    set_sizes,
    training_curves,
)


def test_set_sizes_are_counted_and_drawn_on_the_axes_given():
    axis = Figure().add_subplot()
    assert set_sizes(np.array([3, 3, 3, 5]), np.array([1, 2, 2, 5]), axis) is axis.figure
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axis.patches[:6]}
    assert bars == {0: 0, 1: 0, 2: 0, 3: 3, 4: 0, 5: 1}


def test_reliability_leaves_out_empty_bins():
    axis = Figure().add_subplot()
    reliability(np.array([5.0, 0, 2]), np.array([0.1, np.nan, 0.9]), np.array([0.2, np.nan, 0.5]), axis)
    np.testing.assert_array_equal(axis.lines[1].get_xydata(), [[0.1, 0.2], [0.9, 0.5]])


def test_the_most_important_stands_on_top():
    axis = Figure().add_subplot()
    importance(["a", "b"], np.array([0.3, 0.1]), np.array([0.2, 0]), np.array([0.4, 0.2]), "lost", axis)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a"]  # upwards


def test_species_without_an_auc_are_left_out():
    auc = np.array([0.6, np.nan, 0.9])
    figure = auc_by_records(auc, {"PO": np.array([0, 5, 10]), "PA": np.array([3, 4, 5])})
    for axis, counts in zip(figure.axes, ([0, 10], [3, 5]), strict=True):
        np.testing.assert_allclose(axis.collections[0].get_offsets(), np.stack([counts, [0.6, 0.9]], 1))


def test_ticks_of_few_records_do_not_write_over_each_other():
    counts = np.array([16, 20, 30, 45, 60, 83])
    figure = auc_by_records(np.linspace(0.4, 0.9, 6), {"PO": counts, "PA": counts})
    figure.draw_without_rendering()
    for axis in figure.axes:
        labels = [label for label in axis.get_xticklabels(which="both") if label.get_text()]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        shown = [box for box in boxes if axis.bbox.x0 <= (box.x0 + box.x1) / 2 <= axis.bbox.x1]
        assert len(shown) >= 2
        assert all(left.x1 < right.x0 for left, right in zip(shown, shown[1:], strict=False))


def test_a_step_goes_on_where_the_one_before_ended():
    figure = training_curves(
        {
            "one": {"loss": [2.0, 1.0], "validation_f1": [None, 0.5]},
            "two": {"loss": [0.5], "validation_f1": [0.6]},
        }
    )
    assert figure.axes[0].lines[1].get_xdata().tolist() == [3]


def test_blocks_bear_their_number_of_surveys():
    bounds = np.array([[5.0, 45, 6, 46], [6, 45, 7, 46]])
    figure = block_map(bounds, np.array([0.2, 0.4]), np.array([3, 1]), "F1")
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1"]


def test_each_band_has_its_responses():
    figure = responses(
        np.zeros((3, 4)) + np.arange(4), np.full((3, 4, 2), 0.5), list("abc"), ["x", "y"], np.zeros(3)
    )
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b", "c", ""]
