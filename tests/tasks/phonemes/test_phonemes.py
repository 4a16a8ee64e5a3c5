"""Phonemes: TIMIT's folders, folding and core set, a label at every window, sequences by CTC, streams, bad files."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sound_files import tone, write_sphere, write_wav

import prernn
from prernn.commands.main import main
from prernn.conversion.recipe import Recipe
from prernn.media.video import VideoError
from prernn.tasks import Phonemes
from prernn.tasks.phonemes.metrics import SequenceMetrics, WindowMetrics, best_path
from prernn.tasks.phonemes.timit import CORE, PHONES, folded, recordings, segments
from prernn.training.data_module import VideoData

TONES = {"aa": 500, "iy": 1500, "s": 3000}
RATE = 8000


def say(folder, name, words, write=write_wav):
    """A recording of tones of 0.12 s with silence around, and its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, lines, place = [], [], 0
    for word in ("h#", *words, "h#"):
        sound = tone(TONES[word], 0.12) if word in TONES else tone(100, 0.06, loud=0.001)
        parts.append(sound)
        lines.append(f"{place} {place + len(sound)} {word}")
        place += len(sound)
    write(folder / f"{name}.WAV", np.concatenate(parts))
    (folder / f"{name}.PHN").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timit")
    chance = np.random.default_rng(0)
    for part, speakers, count in (("TRAIN", ("FAAA0", "MBBB0", "MCCC0"), 8), ("TEST", ("FDDD0",), 6)):
        for speaker in speakers:
            for number in range(count):
                words = chance.choice(list(TONES), int(chance.integers(2, 5))).tolist()
                write = write_sphere if number % 2 else write_wav
                say(folder / part / "DR1" / speaker, f"SX{number}", words, write)
            say(folder / part / "DR1" / speaker, "SA1", ["aa"])
    return folder


def opened(root, **options):
    data = VideoData(str(root), Phonemes(**options), "features", num_workers=0, holdout=0.3)
    data.setup("fit")
    data.setup("test")
    return data


def test_timits_symbols_count_as_39():
    assert len(PHONES) == 61
    assert len({folded(name) for name in PHONES} - {None}) == 39
    assert folded("q") is None
    assert folded("ax-h") == "ah"
    assert folded("bcl") == folded("h#") == "sil"
    assert len(CORE) == 24


def test_recordings_but_for_sa_in_any_spelling(root, tmp_path):
    found = recordings(root, "train")
    assert len(found) == 24
    assert {one.speaker for one in found} == {"FAAA0", "MBBB0", "MCCC0"}
    say(tmp_path / "train" / "dr1" / "fabc0", "sx1", ["aa"])
    (tmp_path / "train" / "dr1" / "fabc0" / "sx1.PHN").rename(tmp_path / "train" / "dr1" / "fabc0" / "sx1.phn")
    (one,) = recordings(tmp_path, "train")
    assert one.speaker == "FABC0"
    assert [segment.label for segment in segments(one)] == ["h#", "aa", "h#"]
    with pytest.raises(ValueError, match="expected the folder TEST, found none"):
        recordings(tmp_path, "test")


def test_each_window_has_the_phoneme_of_its_middle(root):
    data = opened(root)
    task = data.task
    assert task.labels == ["aa", "iy", "s", "sil"]
    for number, record in enumerate(data.datasets["test"].records):
        item = data.datasets["test"][number]
        assert item["input"].shape == (task.length(record), 39)
        found = segments(record)
        for step, label in enumerate(item["label"].tolist()):
            middle = (step * 0.01 + 0.01) * RATE
            (inside,) = [one.label for one in found if one.begin <= middle < one.end]
            assert task.labels[label] == ("sil" if inside == "h#" else inside)


def test_features_are_standardised_over_the_training_recordings(root):
    data = opened(root)
    every = torch.cat([data.dataset("train")[number]["input"] for number in range(24)]).double()
    torch.testing.assert_close(every.mean(0), torch.zeros(39).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(every.std(0, correction=0), torch.ones(39).double(), atol=1e-3, rtol=0)
    kept = data.task.noted(Recipe()).task.options
    again = Phonemes(**kept)
    path = data.datasets["test"].records[0].path
    first = next(again.frames(path))[1]
    torch.testing.assert_close(first, data.datasets["test"][0]["input"][0])


def test_speakers_are_held_out_as_a_whole(root):
    data = opened(root)
    held = {record.speaker for record in data.datasets["val"].records}
    assert held
    assert not held & {record.speaker for record in data.datasets["train"].records}


def test_what_is_left_out_counts_for_nothing():
    task = Phonemes()
    task.labels = ["a", "b"]
    out = torch.randn(2, 3, 2)
    out[1, 2] = math.nan  # padding
    batch = {"label": torch.tensor([[0, -1, 1], [1, 0, 0]]), "lengths": torch.tensor([3, 2])}
    chosen = torch.stack([out[0, 0], out[0, 2], out[1, 0], out[1, 1]])
    expected = F.cross_entropy(chosen, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(task.loss(out, batch), expected)
    metrics = WindowMetrics(2)
    metrics.update(out, batch)
    assert int(metrics.compute()["confusion"].sum()) == 4
    right = (chosen.argmax(-1) == torch.tensor([0, 1, 1, 0])).float().mean()
    assert float(metrics.compute()["accuracy"]) == pytest.approx(float(right))


def test_the_loss_of_a_sequence_is_that_of_all_its_paths():
    """By hand: two steps, one phoneme of two; the paths are a a, a -, - a."""
    task = Phonemes(ctc=True)
    out = torch.randn(1, 2, 3)
    p = out[0].softmax(-1)
    expected = -(p[0, 1] * p[1, 1] + p[0, 1] * p[1, 0] + p[0, 0] * p[1, 1]).log()
    batch = {"target": torch.tensor([[1]]), "lengths": torch.tensor([2])}
    torch.testing.assert_close(task.loss(out, batch), expected)


def test_phoneme_error_rate():
    scores = F.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2], [3, 0, 0, 0, 0, 0]]), 4).float()
    assert best_path(scores[0]) == [1, 1, 2]
    metrics = SequenceMetrics()
    batch = {"target": torch.tensor([[1, 2, 2, 0], [3, 0, 0, 0]]), "lengths": torch.tensor([6, 1])}
    metrics.update(scores, batch)
    assert float(metrics.compute()["phoneme_error_rate"]) == pytest.approx(1 / 4)  # 1 1 2 for 1 2 2, and 3 is right


def config_of(folder, **task):
    model = {
        "recipe": {"backbone": "features", "method": "traditional", "cell": "lstm", "hidden_size": 32},
        "learning": {"lr": 0.02, "pretrained_lr": 0.02, "optimizer": "adamw"},
    }
    model["recipe"]["hidden"] = "diagonal"
    values = {"task": {"class_path": "prernn.tasks.Phonemes", "init_args": task}, "num_workers": 0, "batch_size": 4}
    trainer = {"gradient_clip_val": 1.0, "enable_progress_bar": False, "logger": False}
    file = folder / "config.yaml"
    file.write_text(json.dumps({"model": model, "data": values, "trainer": trainer}))
    return file


def test_the_commands(root, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--config", str(config_of(tmp_path)), "--data.root", str(root), "--trainer.default_root_dir", str(run)]
    assert main(["fit", *words, "--trainer.max_epochs", "8"]) == 0
    said = capsys.readouterr().out
    assert "4 phonemes (61 symbols as 39); recordings: train 24 of 3 speakers, test 6 of 1 speakers; 8000 Hz" in said
    assert main(["test", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert set(metrics["class_accuracy"]) == {"aa", "iy", "s", "sil"}
    assert (run / "confusion.png").is_file()
    assert main(["predict", str(run)]) == 0
    rows = list(csv.DictReader((run / "predictions.csv").open()))
    assert len(rows) == 6
    path = root / "TEST" / "DR1" / "FDDD0" / "SX1.WAV"
    out = tmp_path / "rows.json"
    assert main(["stream", str(path), "--checkpoint", str(run), "--json", str(out)]) == 0
    assert "windows with" in capsys.readouterr().err
    heard = [json.loads(line) for line in out.read_text().splitlines()]
    (row,) = [row for row in rows if row["path"] == str(path)]
    assert [one["label"] for one in heard] == row["label"].split()
    assert all(one["end_s"] == other["start_s"] for one, other in itertools.pairwise(heard))


def test_sequences(root, tmp_path):
    run = tmp_path / "run"
    words = ["--config", str(config_of(tmp_path, ctc=True)), "--data.root", str(root)]
    words += ["--trainer.default_root_dir", str(run), "--data.holdout", "0"]
    assert main(["fit", *words, "--trainer.max_epochs", "25"]) == 0
    assert main(["test", str(run)]) == 0
    assert json.loads((run / "metrics.json").read_text())["phoneme_error_rate"] < 0.2


def test_the_core_test_set(tmp_path):
    for speaker in ("MDAB0", "FAKS0"):
        say(tmp_path / "TEST" / "DR1" / speaker, "SX1", ["aa"])
    say(tmp_path / "TRAIN" / "DR1" / "FAAA0", "SX1", ["aa"])
    assert len(opened(tmp_path).task.records("test")) == 2  # the 24 are not there
    (one,) = opened(tmp_path, core=True).task.records("test")
    assert one.speaker == "MDAB0"


def test_files_that_can_not_be_used(root, tmp_path):
    folder = tmp_path / "TRAIN" / "DR1" / "FAAA0"
    for name in ("good", "none", "long", "odd", "back", "short"):
        say(folder, name, ["aa", "s"])
    say(tmp_path / "TEST" / "DR1" / "FBBB0", "x", ["aa"])
    (folder / "none.PHN").unlink()
    (folder / "long.PHN").write_text("0 800 h#\n800 90000 aa\n")
    (folder / "odd.PHN").write_text("0 800 h#\n\n800 x aa\n")
    (folder / "back.PHN").write_text("0 800 h#\n700 900 aa\n")
    (folder / "short.WAV").write_bytes(b"RIFF")
    data = opened(tmp_path, fold=True)
    records = {record.path.rpartition("/")[2][:-4]: record for record in data.task.records("train")}
    assert "input" in data.task.read(records["good"], None)
    for name, message in {
        "none": "none.WAV: expected labels in .*none.PHN, found none",
        "long": "long.PHN: expected labels within the 2880 samples of .*long.WAV, got one up to 90000",
        "odd": "odd.PHN:3: expected BEGIN END PHONEME, .* got '800 x aa'",
        "back": "back.PHN:2: expected a segment after the previous one, got '700 900 aa'",
        "short": "short.WAV: can't be read as sound",
    }.items():
        with pytest.raises(VideoError, match=message):
            data.task.read(records[name], None)


def test_a_transcript_longer_than_ctc_can_align(tmp_path):
    for part in ("TRAIN", "TEST"):
        say(tmp_path / part / "DR1" / "FAAA0", "x", ["aa"])
    lines = [f"{10 * n} {10 * n + 10} {'aa' if n % 2 else 's'}" for n in range(150)]
    (tmp_path / "TRAIN" / "DR1" / "FAAA0" / "x.PHN").write_text("\n".join(lines))
    data = opened(tmp_path, ctc=True)
    with pytest.raises(VideoError, match=r"x.WAV: expected at least 150 windows for its phonemes, got 2"):
        data.task.read(data.task.records("train")[0], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.task.rate_hz", "0"], "rate_hz: expected a whole number of at least 1, got 0"),
        (["--data.task.cepstra.count", "40"], "cepstra: expected 1 to 26 coefficients of as many bands, got 40"),
        (["--data.task.core", "true"], "expected recordings of TIMIT's core test set in TEST, found none"),
        (["--model.recipe.backbone", "words"], "expected a backbone that takes features, got 'words', of words"),
    ],
)
def test_mistakes(root, tmp_path, words, message, capsys):
    assert main(["fit", "--config", str(config_of(tmp_path)), "--data.root", str(root), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("hidden", "recurrent"), [("full", 1_048_576), ("diagonal", 2_048), ("band:103", 200_336)])
def test_a_layer_of_512_has_the_talks_weights(hidden, recurrent):
    """Structural sparsity, Results, TIMIT: 1.13e6 weights in all, 1.05e6 of them recurrent.

    The talk prints 2.11e5 for the band, which is 4 x 512 x 103 = 210,944: with the corners that are not in the matrix.
    """
    net = prernn.traditional(prernn.backbone("features", features=39), cell="lstm", hidden_size=512, hidden=hidden)
    counts = prernn.recurrent_parameters(net)
    assert counts.hidden_to_hidden == recurrent
    assert counts.input_to_hidden == 79_872
    assert pytest.approx(1.13e6, rel=5e-3) == 79_872 + 1_048_576
