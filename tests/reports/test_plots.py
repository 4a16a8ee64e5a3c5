"""Pictures are written whole, for awkward inputs too."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from prernn.reports.plots import classes, curves, gates, weights
from prernn.reports.plots.figure import COLORS


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_curves_and_strip_and_confusion(tmp_path):
    series = {"loss": {"a": [1.0, 0.5], "b": [1.2]}, "accuracy": {"a": [0.1, 0.9], "b": [0.3]}}
    assert is_png(curves.curves(series, tmp_path / "new" / "curves.png"))
    frames = [np.zeros((9, 7, 3), np.uint8)]
    assert is_png(classes.strip(frames, np.array([[0.2, 0.8]]), ["x", "y"], tmp_path / "strip.png"))
    assert is_png(classes.confusion(np.array([[0, 0], [1, 3]]), ["x", "y"], tmp_path / "confusion.png"))
    assert is_png(classes.confusion(np.eye(101), [str(k) for k in range(101)], tmp_path / "many.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confusion.png", "many.png", "new", "strip.png"]
    with pytest.raises(ValueError, match="expected 2 labels, got 3"):
        classes.confusion(np.eye(2), ["none", "x", "y"], tmp_path / "other.png")


def test_more_classes_than_colors(tmp_path):
    frames = [np.zeros((8, 8, 3), np.uint8)] * 3
    labels = [str(k) for k in range(25)]
    assert is_png(classes.strip(frames, np.full((3, 25), 1 / 25), labels, tmp_path / "strip.png"))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space left"):
        curves.curves({"loss": {"a": [1.0]}}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def legend(figure):
    """``{name: color}``."""
    (legend,) = figure.legends
    pairs = zip(legend.texts, legend.get_patches(), strict=True)
    return {text.get_text(): to_hex(patch.get_facecolor()).upper() for text, patch in pairs}


def test_saturation_has_right_on_x_left_on_y_and_the_diagonal(tmp_path, figures):
    units = {"a": (np.array([0.1, 0.2]), np.array([0.7, 0.6])), "b": (np.array([0.0]), np.array([0.5]))}
    grid = {"layer 1": {"i": units, "f": {"a": units["a"]}}, "layer 2": {"f": {"b": units["b"]}}}
    assert is_png(gates.saturation(grid, tmp_path / "saturation.png", title="LSTM"))
    axes = figures[0].axes
    titles = ["layer 1, gate i", "layer 1, gate f", "layer 2, gate i", "layer 2, gate f"]
    assert [axis.get_title() for axis in axes] == titles
    (diagonal,) = axes[0].lines
    assert sorted(diagonal.get_xydata().tolist()) == [[0, 1], [1, 0]]
    a, b, mean_a, mean_b = (points.get_offsets().tolist() for points in axes[0].collections)
    assert a == [[0.7, 0.1], [0.6, 0.2]]
    assert b == mean_b == [[0.5, 0.0]]
    np.testing.assert_allclose(mean_a, [[0.65, 0.15]])
    assert [len(axis.collections) for axis in axes] == [4, 2, 0, 2]
    assert legend(figures[0]) == {"a": COLORS[0], "b": COLORS[1]}


def test_histograms_stand_side_by_side_inside_their_bins(tmp_path, figures):
    shares = {"a": np.arange(10) / 45, "b": np.full(10, 0.1), "c": np.eye(10)[0]}
    grid = {"layer 1": {"g": shares, "i": {"a": shares["a"]}}}
    assert is_png(gates.histograms(grid, {"g": (-1, 1), "i": (0, 1)}, tmp_path / "histogram.png"))
    bars = figures[0].axes[0].patches
    assert [bar.get_height() for bar in bars] == [share for values in shares.values() for share in values]
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
    for k, (begin, end) in enumerate(spans):  # three to a bin, none over another
        low = -1 + 0.2 * (k // 3)
        assert low < begin < end < low + 0.2
        assert k == 0 or spans[k - 1][1] <= begin + 1e-9
    assert figures[0].axes[0].get_xlim() == (-1, 1)
    assert figures[0].axes[1].get_xlim() == (0, 1)


def test_training_curves_with_gaps(tmp_path, figures):
    runs = {f"run {k}": ([1, 2, 3], [k, 1.0, 2.0]) for k in range(12)}  # more than colors
    series = {"train_loss": runs, "val_loss": {"run 3": ([2, 4], [1.0, 0.5])}, "c": {"x": ([1], [1.0])}, "d": runs}
    assert is_png(curves.training(series, tmp_path / "training.png"))
    axes = figures[0].axes
    assert [axis.get_ylabel() for axis in axes] == ["train loss", "val loss", "c", "d"]
    (line,) = axes[1].lines
    assert line.get_xydata().tolist() == [[2, 1], [4, 0.5]]
    assert to_hex(line.get_color()).upper() == legend(figures[0])["run 3"]
    assert is_png(curves.training({str(k): runs for k in range(5)}, tmp_path / "five.png"))


def test_networks_keep_their_colors_from_picture_to_picture(tmp_path, figures):
    curve, names = ([0.0, 0.08], [0.0, 1.0]), ("a", "b", "c")
    curves.cumulative_errors({"c": curve}, tmp_path / "errors.png", names=names)
    curves.training({"loss": {"b": curve, "c": curve}}, tmp_path / "training.png", names=names)
    gates.saturation({"layer 1": {"i": {"c": (np.ones(1), np.zeros(1))}}}, tmp_path / "s.png", names=names)
    gates.histograms({"layer 1": {"i": {"c": np.ones(10)}}}, {"i": (0, 1)}, tmp_path / "h.png", names=names)
    assert [legend(figure)["c"] for figure in figures] == [COLORS[2]] * 4
    assert list(legend(figures[1])) == ["b", "c"]


def test_ratio_bars_are_labeled_with_their_values(tmp_path, figures):
    groups = {"diagonal": {"PreLSTM": 0.5, "PreLSTM-SIH": 0.00123}, "full": {"PreLSTM": 1.0, "PreLSTM-SIH": 0.18}}
    assert is_png(curves.ratio_bars(groups, tmp_path / "bars.png", label="ratio"))
    axis = figures[0].axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.00123, 1.0, 0.18]
    assert [text.get_text() for text in axis.texts] == ["0.50", "0.0012", "1.00", "0.18"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["diagonal", "full"]
    for tick, pair in zip(axis.get_xticks(), (axis.patches[:2], axis.patches[2:]), strict=True):
        centers = [bar.get_x() + bar.get_width() / 2 for bar in pair]
        assert tick == pytest.approx(np.mean(centers))
    assert is_png(curves.ratio_bars({"nothing": {"a": 0.0}}, tmp_path / "zero.png", label="ratio"))


def test_equal_curves_are_both_seen(figures, tmp_path):
    same = [0.2, 0.5, 0.9]
    three = {name: (values, [0] * 3) for name, values in (("a", same), ("b", same), ("c", [0.1, 0.2, 0.3]))}
    curves.early(three, [0.1, 0.5, 1], tmp_path / "e")
    curves.curves({"loss": {"a": same, "b": same}}, tmp_path / "c")
    curves.training({"loss": {"a": ([1, 2, 3], same), "b": ([1, 2, 3], same)}}, tmp_path / "t")
    points = [(1.0, 0.2, 0.0), (2.0, 0.5, 0.0)]
    curves.lines({"score": {"a": points, "b": points}}, tmp_path / "l", along="samples")
    for figure in figures:
        first, second, *others = figure.axes[0].lines
        assert first.get_linestyle() == "-"
        assert second.get_linestyle() == "--"  # through whose gaps the first one is seen
        assert second.get_markersize() > first.get_markersize()
        assert all(line.get_linestyle() == "-" for line in others)


def test_one_epoch_is_one_tick_and_accuracies_go_from_0_to_1(figures, tmp_path):
    curves.curves({"loss": {"a": [0.7]}, "clip_accuracy": {"a": [0.5]}}, tmp_path / "one")
    curves.training({"loss": {"a": ([1], [0.7])}, "val_accuracy": {"a": ([1], [0.5])}}, tmp_path / "other")
    for figure in figures:
        loss, accuracy = figure.axes
        low, high = loss.get_xlim()
        assert [tick for tick in loss.get_xticks() if low <= tick <= high] == [1]
        assert accuracy.get_ylim()[0] <= 0
        assert 1 <= accuracy.get_ylim()[1] <= 1.05
        assert loss.get_ylim() != accuracy.get_ylim()


def test_a_diagonal_of_ones_is_as_bright_as_its_scale_says(tmp_path):
    weights.weight_maps({"layer": {"h": np.eye(100)}}, tmp_path / "eye.png")
    picture = np.asarray(Image.open(tmp_path / "eye.png").convert("RGB")).astype(int)
    brightest = (np.array(matplotlib.colormaps["viridis"](1.0))[:3] * 255).round()
    near = np.abs(picture - brightest).sum(-1) < 6
    bar = picture.shape[0] * 3 // 4
    assert near[:bar].sum() > 200  # on the map itself, not on its scale


@pytest.mark.parametrize("draw", ["curves", "lines"])
def test_no_network_looks_like_another(figures, tmp_path, draw):
    names = [f"network {k}" for k in range(2 * len(COLORS))]
    if draw == "curves":
        curves.curves({"loss": {name: [k, k + 1.0] for k, name in enumerate(names)}}, tmp_path / "a.png")
    else:
        points = {name: [(5, k, 0.0), (10, k + 1, 0.0)] for k, name in enumerate(names)}
        curves.lines({"accuracy": points}, tmp_path / "a.png", along="videos")
    drawn = {line.get_label(): (line.get_color(), line.get_marker()) for line in figures[-1].axes[0].get_lines()}
    assert len({drawn[name] for name in names}) == len(names)
