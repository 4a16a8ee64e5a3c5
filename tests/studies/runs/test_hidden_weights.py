"""What is in hidden-to-hidden weights: statistics against plain loops, pictures of them, the page and its command."""

import csv
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prernn
from prernn.commands import analyze as commands_analyze
from prernn.commands.main import main
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.reports.plots import weights as weight_plots
from prernn.studies.runs import hidden_weights
from prernn.studies.runs.hidden_weights import analyze_hidden, layer_weights
from small_cnns import SIZE, FcNet, ResidualNet, prepare
from strategies import specs

KINDS = {
    "a/pregru": {"cell": "gru", "hidden": "band:3"},
    "b/pregru": {"cell": "gru", "method": "traditional", "hidden_size": 6, "num_layers": 2, "hidden": "sparse:0.03"},
    "maps-a/100%": {"method": "rcn"},
    "a/100%": {"cell": "vrnn"},
}


def network(**options):
    return prernn.convert(prepare(FcNet()), image_size=(8, 8), **options)


def close(actual, expected):
    """Equal to 1e-12, where NaN equals NaN."""
    assert actual == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)


def mean_std(values):
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


@torch.no_grad()
def products(hidden):
    """``W_hh (G, D, D)`` by its effect on the unit vectors, none of them the module's own dense matrix."""
    units = torch.eye(hidden.size, dtype=torch.float64)
    return hidden(units).permute(1, 2, 0)


@torch.no_grad()
def entries(hidden):
    """``{(i, j): W_ij}`` of each gate, for the weights that exist: those that show when all are 1."""
    matrices, weight = products(hidden), hidden.weight.clone()
    hidden.weight.fill_(1)
    exists = products(hidden) != 0
    hidden.weight.copy_(weight)
    return [
        {(i, j): float(matrix[i, j]) for i, j in there.nonzero().tolist()}
        for matrix, there in zip(matrices, exists, strict=True)
    ]


@given(
    cell=st.sampled_from(["vrnn", "lstm", "gru", "ligru"]),
    spec=specs(SIZE),
    seed=st.integers(0, 99),
    offset=st.floats(-2, 2),
)
def test_statistics_are_those_of_a_plain_loop(cell, spec, seed, offset):
    net = network(cell=cell, hidden=spec)
    (layer,) = net.recurrent_layers
    with torch.no_grad():
        layer.hidden_to_hidden.weight.normal_(generator=torch.Generator().manual_seed(seed)).add_(offset)
    rows = layer_weights(net)
    assert [(row["layer"], row["gate"]) for row in rows] == [("fc7", gate) for gate in layer.cell.gates]
    for row, weights in zip(rows, entries(layer.hidden_to_hidden), strict=True):
        diagonal = [w for (i, j), w in weights.items() if i == j]
        assert (row["structure"], row["D"]) == (str(layer.hidden_to_hidden.structure), SIZE)
        assert (row["weights"], row["diagonal weights"]) == (len(weights), len(diagonal))
        close((row["mean"], row["std"]), mean_std(list(weights.values())))
        close((row["diagonal mean"], row["diagonal std"]), mean_std(diagonal))
        total = math.fsum(w * w for w in weights.values())
        close(row["off-diagonal"], math.fsum(w * w for (i, j), w in weights.items() if i != j) / total)


def test_layers_come_in_order_and_an_identity_is_exact():
    rcn = prernn.convert_rcn(prepare(ResidualNet()), image_size=(8, 8))
    net = prernn.traditional(rcn, cell="gru", hidden_size=1)
    rows = layer_weights(net)
    last = rows[-1]["layer"]
    assert [(row["layer"], row["gate"]) for row in rows] == [("stem", "h"), ("conv2", "h"), *((last, g) for g in "rzn")]
    names = ("D", "weights", "mean", "diagonal weights", "diagonal mean", "diagonal std", "off-diagonal")
    close([rows[0][name] for name in names], [SIZE, SIZE**2, 1 / SIZE, SIZE, 1, 0, 0])
    close([rows[1][name] for name in names], [6, 36, 1 / 6, 6, 1, 0, 0])
    close(rows[1]["std"], math.sqrt(1 / 6 - 1 / 36))
    for row in rows[2:]:  # one neuron
        assert [row[name] for name in ("D", "weights", "std", "diagonal std", "off-diagonal")] == [1, 1, 0, 0, 0]
        assert row["mean"] == row["diagonal mean"] != 0


def test_what_has_no_value_is_nan_and_blank_and_what_diverged_is_not_blank():
    net = network(cell="vrnn", hidden="sparse:0.01")  # one weight, beside the diagonal
    weight = net.recurrent_layers[0].hidden_to_hidden.weight
    (row,) = layer_weights(net)
    assert (row["weights"], row["diagonal weights"], row["off-diagonal"]) == (1, 0, 1)
    assert math.isnan(row["diagonal mean"])
    assert math.isnan(row["diagonal std"])
    text = hidden_weights._texts(row)
    assert (text["mean"], text["std"]) == (f"{weight.item():.6g}", "0")
    assert text["diagonal mean"] == text["diagonal std"] == ""
    for value, share, mean in ((0.0, "", "0"), (math.nan, "nan", "nan"), (math.inf, "nan", "inf")):
        with torch.no_grad():
            weight.fill_(value)
        (text,) = map(hidden_weights._texts, layer_weights(net))
        assert (text["off-diagonal"], text["mean"]) == (share, mean)


def test_a_network_without_recurrence_has_no_rows():
    assert layer_weights(prernn.framewise(prepare(FcNet()), image_size=(8, 8))) == []


# pictures


@given(size=st.integers(1, 9), block=st.integers(1, 4), seed=st.integers(0, 99), absent=st.sampled_from([0, 0.5, 1]))
def test_block_norms_are_those_of_a_plain_loop(size, block, seed, absent):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(size, size))
    matrix[generator.random((size, size)) < absent] = np.nan
    before = matrix.copy()
    norms = weight_plots.block_norms(matrix, block)
    count = math.ceil(size / block)
    assert norms.shape == (count, count)
    for i in range(count):
        for j in range(count):
            part = matrix[i * block : (i + 1) * block, j * block : (j + 1) * block].ravel().tolist()
            squares = [w * w for w in part if not math.isnan(w)]
            close(float(norms[i, j]), math.sqrt(math.fsum(squares) / len(squares)) if squares else math.nan)
    np.testing.assert_array_equal(matrix, before)


def test_a_map_for_each_layer_and_gate(figures, tmp_path):
    large = np.full((300, 300), np.nan)
    large[np.arange(300), np.arange(300)] = -3.0
    maps = {
        "one": {"r": np.array([[0.0, -2.0], [1.0, np.nan]]), "z": np.full((2, 2), np.nan)},
        "a_name_that_is_much_too_long.conv": {"h": large},
        "three": {"h": np.array([[np.inf, 0.5], [0.0, 0.0]])},
    }
    weight_plots.weight_maps(maps, tmp_path / "maps.png")
    shown = [axis for axis in figures[0].axes if axis.images]
    assert [axis.get_title() for axis in shown] == [
        "one, gate r\nD=2, to 2",
        "one, gate z\nD=2, to 0",
        "..._that_is_much_too_long.conv\nD=300 in 3x3, to 3",
        "three\nD=2, to 0.5",
    ]
    drawn = [np.ma.filled(axis.images[0].get_array(), np.nan) for axis in shown]
    np.testing.assert_array_equal(drawn[0], [[0, 1], [0.5, np.nan]])
    assert np.isnan(drawn[1]).all()
    assert drawn[2].shape == (100, 100)
    assert (np.diagonal(drawn[2]) == 1).all()  # as bright as in the whole matrix
    np.testing.assert_array_equal(drawn[3], [[np.nan, 1], [0, 0]])
    assert {axis.images[0].get_clim() for axis in shown} == {(0, 1)}


@pytest.mark.parametrize(("gates", "layers", "across"), [(1, 17, 6), (3, 3, 6), (4, 2, 4), (7, 2, 7), (1, 2, 2)])
def test_the_gates_of_a_layer_stand_side_by_side(figures, tmp_path, gates, layers, across):
    row = {str(gate): np.ones((2, 2)) for gate in range(gates)}
    weight_plots.weight_maps({str(layer): row for layer in range(layers)}, tmp_path / "maps.png")
    assert figures[0].axes[0].get_gridspec().ncols == across
    assert sum(bool(axis.images) for axis in figures[0].axes) == gates * layers


def test_statistics_are_drawn_by_layer_and_gate(figures, tmp_path):
    def layer(value):
        return {"all weights": {"mean": value, "std": value + 1}, "diagonal": {"mean": -value, "std": math.nan}}

    panels = {"h": {f"layer{k}": layer(float(k)) for k in range(17)}, "r": {"top": layer(5.0)}}
    weight_plots.weight_statistics(panels, tmp_path / "statistics.png")
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ["gate h", "gate r", "", ""]
    assert [axis.get_ylabel() for axis in axes] == ["all weights", "", "diagonal", ""]
    assert [tick.get_text() for tick in axes[2].get_xticklabels()] == list(panels["h"])
    assert [tick.get_text() for tick in axes[3].get_xticklabels()] == ["top"]
    lines = [[list(line.get_ydata()) for line in axis.lines[:2]] for axis in axes]
    steps = [float(k) for k in range(17)]
    assert lines[0] == [steps, [k + 1 for k in steps]]
    assert lines[1] == [[5.0], [6.0]]
    assert lines[2][0] == [-k for k in steps]
    assert np.isnan(lines[2][1]).all()
    assert [text.get_text() for text in figures[0].legends[0].texts] == ["mean", "std"]


# the page


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Run folders of untrained networks. Two have one name; of two a picture would be hidden-maps-a-100.png."""
    root = tmp_path_factory.mktemp("runs")
    for name, kind in {**KINDS, "framewise": {"method": "framewise"}}.items():
        checkpoint.save(NetworkSpec("timm/test_resnet", **kind).build(3), root / name)
    return root


@pytest.fixture(scope="module")
def out(root):
    return analyze_hidden([root / name for name in KINDS], root / "out").parent


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_every_layer_of_every_network(root, out):
    rows = table(out / "hidden.csv")
    expected = [(name, row) for name in KINDS for row in layer_weights(checkpoint.load(root / name))]
    assert [row["network"] for row in rows] == [name for name, _ in expected]
    for row, (_, values) in zip(rows, expected, strict=True):
        assert list(row) == ["network", *values]
        for key, value in values.items():
            if isinstance(value, float):
                assert float(row[key] or "nan") == pytest.approx(value, rel=1e-5, nan_ok=True)
            else:
                assert row[key] == str(value)
    assert "" in {row["diagonal mean"] for row in rows}  # one weight, beside the diagonal


def test_the_page_shows_every_network_with_pictures_of_its_own(out):
    tree = ElementTree.fromstring((out / "index.html").read_text().partition("\n")[2])
    titles = [heading.text for heading in tree.iter("h2")]
    assert titles == [f"{name}: {part}" for name in KINDS for part in ("weights by layer", "matrices")]
    sources = [image.get("src") for image in tree.iter("img")]
    assert len(set(sources)) == len(sources) == 2 * len(KINDS)
    links = [link.get("href") for link in tree.iter("a")]
    assert {path.name for path in out.iterdir()} == {"index.html", *links}
    assert len(list(out.glob("*.png"))) == 2 * len(KINDS)
    cells = [cell.text for cell in tree.iter("td")]
    assert cells[0::6] == list(KINDS)
    assert [cells[6 * k + 3] for k in range(len(KINDS))] == ["GRU", "GRU", "Linear", "VRNN"]


PIECES = st.lists(st.sampled_from(["a", "A", "maps-", "/", "%", " ", "#", "-2"]), min_size=1, max_size=3)


@given(st.lists(PIECES.map("".join), min_size=2, max_size=12, unique=True))
def test_file_names_differ_and_can_be_links(names):
    stems = hidden_weights._file_names(names)
    files = [f"{kind}{stem}.png".casefold() for stem in stems for kind in ("hidden-", "hidden-maps-")]
    assert len(set(files)) == 2 * len(names)
    assert not set("/ %#") & set("".join(files))


def test_nothing_is_written_where_one_can_not_be_looked_at(root, tmp_path):
    with pytest.raises(ValueError, match="at least one checkpoint"):
        analyze_hidden([], tmp_path)
    with pytest.raises(ValueError, match="framewise: expected a network with a recurrent layer"):
        analyze_hidden([root / "a/pregru", root / "framewise"], tmp_path)
    with pytest.raises(ValueError, match="twice"):
        analyze_hidden([root / "a/pregru", root / "a/pregru"], tmp_path)
    assert list(tmp_path.iterdir()) == []


# the command


def test_the_command(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(["analyze", "hidden", str(root / "a/100%"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "index.html")
    assert {row["network"] for row in table(out / "hidden.csv")} == {"100%"}
    (tmp_path / "hidden").symlink_to(root / "a" / "pregru")
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", "./hidden", "--no-gates", "--out", "runs"]) == 0  # a run of this name
    assert (tmp_path / "runs" / "runs.csv").is_file()
    assert not (tmp_path / "runs" / "hidden.csv").exists()
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", "--help"])
    assert "./hidden" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected checkpoints"),
        (["absent"], "absent"),
        (["FRAMEWISE"], "framewise: expected a network with a recurrent layer"),
        (["RUN", "--videos", "clip.mp4"], "no --videos"),
        (["RUN", "--limit", "1", "--no-gates"], "no --limit or --no-gates"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_mistake_is_one_line(root, tmp_path, capsys, arguments, complaint):
    places = {"RUN": str(root / "a/pregru"), "FRAMEWISE": str(root / "framewise")}
    words = [places.get(word, word) for word in arguments]
    assert main(["analyze", "hidden", *words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "look"), [([], True), (["--gates"], True), (["--no-gates"], False)])
def test_gates_are_looked_at_unless_told(monkeypatch, given, look):
    asked = {}
    monkeypatch.setattr("prernn.studies.runs.page.analyze", lambda runs, out, **options: asked.update(options))
    assert main(["analyze", "run", "--out", "out", *given]) == 0
    assert (asked["batches"] is commands_analyze._own_videos) is look
