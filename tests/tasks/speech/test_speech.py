"""Speech: VCTK's folders, texts to letters, steps of sound as it comes, error rates, streams with partial texts."""

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import tone, write_wav
from torchmetrics.functional.text import char_error_rate, word_error_rate

import prernn
from prernn.commands.main import main
from prernn.media.audio import LogSpectrum, read_audio
from prernn.media.video import VideoError
from prernn.tasks import Speech, restore
from prernn.tasks.speech.letters import ALPHABET, letters, read_letters
from prernn.tasks.speech.vctk import split, utterances
from prernn.tasks.speech.watcher import PAUSE, SpeechWatcher

TONES = {"a": 500, "b": 1500, "c": 3000, " ": 0}
RATE = 8000


def say(root, name, text, *, sound="wav48", suffix=".wav", write=write_wav):
    """A recording of a tone of 0.12 s for each letter, with silence around, and its text."""
    for folder in (sound, "txt"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    silence = tone(100, 0.1, loud=0.001)
    parts = [silence, *(tone(TONES[letter], 0.12) for letter in text), silence]
    write(root / sound / f"{name}{suffix}", np.concatenate(parts))
    (root / "txt" / f"{name}.txt").write_text(text.upper() + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vctk")
    chance = np.random.default_rng(0)
    for speaker in ("p225", "p226", "p227"):
        for number in range(8):
            words = ["".join(chance.choice(list("abc"), int(chance.integers(1, 3)))) for _ in range(2)]
            say(folder, f"{speaker}/{speaker}_{number:03d}", " ".join(words))
    return folder


def task_of(root, **options):
    task = Speech(**options)
    task.open(root, {})
    return task


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Please call Stella.\n", "please call stella"),
        ("Don\u2019t -- well-known,\tZoë!", "don't well known zoe"),
        ("\u201cFIVE\u201d  'TIS", "five 'tis"),
        ("ﬁve", "five"),
    ],
)
def test_texts_become_letters(text, said):
    assert letters(text, ALPHABET) == said


@given(st.text())
@settings(max_examples=200)
def test_any_text_becomes_letters_of_the_alphabet_or_an_error(text):
    try:
        said = letters(text, ALPHABET)
    except ValueError:
        return
    assert said and set(said) <= set(ALPHABET)  # noqa: PT018
    assert letters(said, ALPHABET) == said
    assert said == " ".join(said.split())


@pytest.mark.parametrize(
    ("text", "words"), [("room 5", "got '5'"), ("...", "found none"), ("", "found none"), ("жук", "got 'ж'")]
)
def test_texts_that_have_no_letters_of_the_alphabet(text, words):
    with pytest.raises(ValueError, match=words):
        letters(text, ALPHABET)


def test_texts_that_can_not_be_read(tmp_path):
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00nope")
    (tmp_path / "digit.txt").write_text("42")
    with pytest.raises(VideoError, match=r"odd.txt: .*utf-8"):
        read_letters(tmp_path / "odd.txt", ALPHABET)
    with pytest.raises(VideoError, match=r"digit.txt: expected letters"):
        read_letters(tmp_path / "digit.txt", ALPHABET)
    with pytest.raises(VideoError, match=r"none.txt: expected a text of what is said, found none"):
        read_letters(tmp_path / "none.txt", ALPHABET)


def test_recordings_of_both_versions(root, tmp_path):
    assert len(utterances(root)) == 24
    for microphone in ("_mic1", "_mic2"):
        say(
            tmp_path,
            "p300/p300_001",
            "ab",
            sound="wav48_silence_trimmed",
            suffix=f"{microphone}.flac",
            write=write_flac,
        )
    say(tmp_path, "p300/p300_002", "ab")  # of the older version, which the newer one takes the place of
    (tmp_path / "wav48_silence_trimmed" / "p300" / "._x.flac").write_text("")
    assert list(utterances(tmp_path)) == ["p300/p300_001"]
    one = utterances(tmp_path)["p300/p300_001"]
    assert one.path.endswith("p300_001_mic1.flac")
    assert read_letters(one.text, ALPHABET) == "ab"
    assert len(read_audio(one.path)) == round(0.44 * RATE)


def write_flac(path, samples, rate=RATE):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono")
        values = (np.asarray(samples) * 32767).round().astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_speakers_are_apart_unless_lists_say_otherwise(root, tmp_path):
    parts = split(root)
    assert {one.speaker for one in parts["test"]} == {"p227"}
    assert {one.speaker for one in parts["train"]} == {"p225", "p226"}
    assert {one.speaker for one in split(root, ["p225"])["test"]} == {"p225"}
    with pytest.raises(ValueError, match="test_speakers: expected some of p225, p226, p227, got p999"):
        split(root, ["p999"])
    for number in (1, 2):
        say(tmp_path, f"p1/p1_00{number}", "ab")
    with pytest.raises(ValueError, match="expected speakers for training and for the test, got none for train"):
        split(tmp_path)
    (tmp_path / "train.txt").write_text("p1/p1_001\n\n")
    (tmp_path / "test.txt").write_text("p1/p1_002\n")
    assert [len(split(tmp_path)[part]) for part in ("train", "test")] == [1, 1]
    (tmp_path / "test.txt").write_text("p1/p1_003\n")
    with pytest.raises(ValueError, match=r"test.txt, line 1: expected an existing recording, got 'p1/p1_003'"):
        split(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbfp1/p1_001\n")
    with pytest.raises(ValueError, match=r"test.txt: expected recordings that are not in train.txt, got .*p1_001.wav"):
        split(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"test.txt: 'utf-8' codec"):
        split(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(ValueError, match=r"expected train.txt and test.txt, or neither, found only train.txt"):
        split(tmp_path)
    with pytest.raises(ValueError, match="expected VCTK's folders"):
        split(tmp_path / "txt")


def test_an_item_has_steps_of_two_windows_and_letters(root):
    task = task_of(root)
    assert task.rate_hz == RATE
    assert task.backbone_options == {"features": 81}
    assert task.labels == ["<blank>", *ALPHABET]
    record = task.records("train")[0]
    item = task.read(record, None)
    seconds = len(read_audio(record.path)) / RATE
    assert item["input"].shape == (len(item["input"]), 2, 81)
    assert abs(len(item["input"]) - 50 * seconds) <= 1
    assert abs(task.length(record) - len(item["input"])) <= 1
    assert task.said(item["target"]) == read_letters(record.text, ALPHABET)
    longer = task_of(root, tail=0.4).read(record, None)["input"]
    assert abs(len(longer) - len(item["input"]) - 20) <= 1
    every = torch.cat([task.read(one, None)["input"] for one in task.records("train")]).flatten(0, 1)
    torch.testing.assert_close(every.mean(0), torch.zeros(81), rtol=0, atol=0.05)  # filled up windows beside
    torch.testing.assert_close(every.std(0), torch.ones(81), rtol=0, atol=0.05)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=8), st.sampled_from([0.0, 0.07]))
@settings(max_examples=60, deadline=None)
def test_sound_in_any_parts_makes_the_same_steps(sizes, tail):
    task = Speech(rate_hz=RATE, tail=tail, mean=[0.5] * 81, std=[2.0] * 81)
    samples = torch.randn(sum(sizes))
    whole = torch.cat(list(task._steps([samples])))
    parts = torch.cat(list(task._steps(samples.split(sizes))))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    heard, wanted = len(whole) * 160 + 80, len(samples) + round(tail * RATE)
    assert wanted <= heard < wanted + 160 + 240  # all of it, and less than a step more


def test_one_sample_silence_and_texts_that_are_too_long(tmp_path, root):
    task = task_of(root)
    for name, sound in (("one", np.zeros(1)), ("silence", np.zeros(4000))):
        say(tmp_path, f"p1/{name}", "a")
        write_wav(tmp_path / "wav48" / "p1" / f"{name}.wav", sound)
        item = task.read(utterances(tmp_path)[f"p1/{name}"], None)
        assert bool(item["input"].isfinite().all())
    say(tmp_path, "p1/long", "a" * 30)
    write_wav(tmp_path / "wav48" / "p1" / "long.wav", tone(500, 0.3))
    with pytest.raises(VideoError, match=r"long.wav: expected at least 59 steps for its text, got 15"):
        task.read(utterances(tmp_path)["p1/long"], None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder": "best"}, "decoder"),
        ({"alphabet": "aab"}, "alphabet"),
        ({"alphabet": ""}, "alphabet"),
        ({"alphabet": "abc"}, "alphabet"),
        ({"alphabet": "ABC "}, "alphabet"),
        ({"tail": -1}, "tail"),
        ({"width": 0}, "width"),
        ({"rate_hz": 0}, "rate_hz"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        Speech(**options)


def test_windows_that_leave_sound_out():
    with pytest.raises(ValueError, match=r"spectrum: expected a hop of at most the window's 0.01 s, got 0.02"):
        LogSpectrum(0.01, 0.02)


def test_a_first_recording_that_is_broken_does_not_tell_the_rate(root, tmp_path):
    import shutil

    shutil.copytree(root, tmp_path / "vctk")
    (tmp_path / "vctk" / "wav48" / "p225" / "p225_000.wav").write_text("no sound")
    assert task_of(tmp_path / "vctk").rate_hz == RATE


def test_frequencies_that_do_not_fit(root):
    with pytest.raises(ValueError, match="mean: expected 81 numbers, one a frequency, got 2"):
        task_of(root, mean=[0.0, 0.0])


def scores(text, steps=None):
    """Outputs ``(T, K)`` that say a text surely: each letter for two steps, a blank between."""
    path = [label for letter in text for label in (*[1 + ALPHABET.index(letter)] * 2, 0)]
    out = torch.full((len(path) if steps is None else steps, 29), -5.0)
    for step, label in enumerate(path):
        out[step, label] = 5.0
    out[len(path) :, 0] = 5.0
    return out


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_errors_are_counted_by_letter_and_by_word(decoder):
    task = Speech(decoder=decoder)
    task.labels = ["<blank>", *ALPHABET]
    heard = [scores("seven too", 40), scores("five", 40)]
    target = [torch.tensor([1 + ALPHABET.index(x) for x in text]) for text in ("seven two", "five")]
    batch = {
        "path": ["x", "y"],
        "lengths": torch.tensor([30, 40]),
        "target": torch.nn.utils.rnn.pad_sequence(target, batch_first=True),
    }
    out = torch.stack(heard)
    out[0, 30:, 3] = 50.0  # padding
    metrics = task.metrics()
    metrics.update(out, batch)
    found = metrics.compute()
    assert float(found["character_error_rate"]) == pytest.approx(1 / 13)
    assert float(found["word_error_rate"]) == pytest.approx(1 / 3)
    rows = task.predictions(out, batch)
    assert [(row["label"], row["true"]) for row in rows] == [("seven too", "seven two"), ("five", "five")]


class Said(torch.nn.Module):
    """Stands for a network: what it hears are scores, which it says some steps later."""

    def __init__(self, sees_ahead=False, delay=0):
        super().__init__()
        self.sees_ahead, self.delay, self.heard, self.begun = sees_ahead, delay, 0, []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x, ()


class Late:
    """A stream through it."""

    def __init__(self, net):
        self.net = net
        self.waiting = list(scores("", net.delay))

    def __call__(self, frame):
        self.net.heard += 1
        self.waiting.append(frame)
        return self.waiting.pop(0)

    def reset(self):
        self.net.begun.append(self.net.heard)
        self.waiting = list(scores("", self.net.delay))


def watched(out, net, monkeypatch, **options):
    """Rows of scores ``(T, K)`` that a network hears, one a step."""
    monkeypatch.setattr("prernn.tasks.speech.watcher.Stream", Late)
    task = Speech(rate_hz=RATE, **options)
    watcher = task.watcher(net)
    assert isinstance(watcher, SpeechWatcher)
    rows = [row for step in range(len(out)) for row in watcher.see(step, step * 0.02, out[step])]
    assert (rows == []) or not net.sees_ahead
    return rows + watcher.finish()


def whole(rows):
    return [row["text"] for row in rows if row["final"]]


PAUSED = round(PAUSE / 0.02)


@pytest.mark.parametrize("sees_ahead", [False, True])
@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_a_text_grows_and_ends_at_a_pause(decoder, sees_ahead, monkeypatch):
    out = torch.cat([scores("no"), scores("", PAUSED + 15), scores("a  b")])
    net = Said(sees_ahead)
    rows = watched(out, net, monkeypatch, decoder=decoder)
    assert whole(rows) == ["no", "a b"]
    assert [row["text"] for row in rows if not row["final"]] == ["n", "no", "a", "a b"]
    first, second = (row for row in rows if row["final"])
    begin = 6 + PAUSED + 15
    assert (first["start_s"], first["end_s"]) == pytest.approx((0, 0.08))  # the o begins in step 3
    assert (second["start_s"], second["end_s"]) == pytest.approx((0.02 * begin, 0.02 * (begin + 10)))
    assert net.heard == (0 if sees_ahead else len(out))
    assert not net.begun  # it goes on


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
@pytest.mark.parametrize("delay", [0, 10, 40])
@pytest.mark.parametrize("silence", range(PAUSED - 45, PAUSED + 8, 4))
def test_a_word_that_begins_in_a_pause_is_heard_once(silence, delay, decoder, monkeypatch):
    """The text is over a second after the last letter, perhaps in a word whose letters come late."""
    out = torch.cat([scores("no"), scores("", silence), scores("yes"), scores("", delay)])
    rows = watched(out, Said(delay=delay), monkeypatch, decoder=decoder)
    assert "".join(whole(rows)) == "noyes"
    last = [row for row in rows if row["final"]][-1]
    begin = 6 + silence
    if last["text"] == "yes":
        assert (last["start_s"], last["end_s"]) == pytest.approx((0.02 * begin, 0.02 * (begin + 7)), abs=1e-3)


def test_letters_that_a_beam_is_not_sure_of_are_not_said_twice(monkeypatch):
    faint = scores("", 8)
    faint[3, 1 + ALPHABET.index("a")] = 5.0  # as likely as the blank
    out = torch.cat([scores("no"), scores("", PAUSED - 8), faint, scores("", 30)])
    assert "".join(whole(watched(out, Said(), monkeypatch, decoder="beam"))).count("a") <= 1


def test_a_text_without_a_pause_is_over_at_a_space(monkeypatch):
    words = "abcd " * 200  # 60 s
    found = whole(watched(scores(words), Said(), monkeypatch))
    assert " ".join(found) == words.strip()
    assert len(found) == 3


def test_the_decoder_of_a_recording_that_is_heard_whole_is_that_of_predictions(monkeypatch):
    out = torch.randn(60, 29, generator=torch.Generator().manual_seed(3))
    task = Speech(rate_hz=RATE, decoder="beam")
    assert " ".join(whole(watched(out, Said(sees_ahead=True), monkeypatch, decoder="beam"))) == task.heard(out)


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Run folders of both kinds."""
    folder, both = tmp_path_factory.mktemp("runs"), {}
    small = ["--model.recipe.hidden_size", "12", "--model.recipe.num_layers", "2", "--data.task.rate_hz", "8000"]
    small += ["--data.batch_size", "4", "--data.num_workers", "0", "--trainer.max_epochs", "2", "--data.holdout", "0"]
    causal = ["--model.recipe.backbone_options", '{"filters": 2, "causal": true}', "--model.recipe.lookahead", "3"]
    causal += ["--data.task.tail", "0.06"]
    ways = {"causal": causal, "both": ["--model.recipe.backbone_options", '{"filters": 2}']}
    for name, more in ways.items():
        words = ["fit", "--config", "configs/speech.yaml", "--data.root", str(root), *small, *more]
        both[name] = folder / name
        main([*words, "--trainer.default_root_dir", str(both[name])])
    return both


@pytest.mark.parametrize("name", ["causal", "both"])
def test_it_trains_and_tests(runs, name, capsys):
    run = runs[name]
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert "val_character_error_rate" in rows[0]
    rates = {}
    for decoder in ("greedy", "beam"):
        assert main(["test", str(run), "--data.task.decoder", decoder]) == 0
        found = json.loads((run / "metrics.json").read_text())
        assert main(["predict", str(run), "--data.task.decoder", decoder]) == 0
        with (run / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [set(row["true"]) <= set("abc ") for row in rows] == [True] * 8
        rates[decoder] = (found["character_error_rate"], found["word_error_rate"])
        said, true = ([row[name] for row in rows] for name in ("label", "true"))
        assert found["character_error_rate"] == pytest.approx(float(char_error_rate(said, true)))
        assert found["word_error_rate"] == pytest.approx(float(word_error_rate(said, true)))
    assert rates["greedy"] != rates["beam"]


def test_a_test_takes_what_training_measured(runs, root, tmp_path):
    """Louder recordings have another mean, which a test does not take."""
    import shutil

    shutil.copytree(root, tmp_path / "loud")
    for path in (tmp_path / "loud" / "wav48").glob("*/*.wav"):
        write_wav(path, read_audio(path).numpy() * 2.5)
    kept = prernn.load(runs["causal"]).recipe.task.options
    assert main(["predict", str(runs["causal"]), "--data.root", str(tmp_path / "loud")]) == 0
    net = prernn.load(runs["causal"] / "checkpoints" / "last.ckpt")
    assert net.recipe.task.options == kept
    task = restore(net.recipe)
    record = split(tmp_path / "loud")["test"][0]
    with (runs["causal"] / "predictions.csv").open() as file:
        rows = {row["path"]: row["label"] for row in csv.DictReader(file)}
    with torch.no_grad():
        assert rows[record.path] == task.heard(net(task.read(record, None)["input"][None])[0][0])


def test_a_stream_is_the_recording(runs, root, tmp_path, monkeypatch, capsys):
    net = prernn.load(runs["causal"])
    with torch.no_grad():
        net.output.weight.normal_(0, 3)  # letters, where little was learned
    task = restore(net.recipe)
    record = split(root)["test"][0]
    item = task.read(record, None)
    whole = net(item["input"][None])[0][0]
    frames = list(task.frames(record.path))
    torch.testing.assert_close(torch.stack([frame for _, frame in frames]), item["input"], rtol=0, atol=1e-5)
    assert [time for time, _ in frames[:3]] == pytest.approx([0, 0.02, 0.04])
    stream = prernn.Stream(net)
    torch.testing.assert_close(torch.stack([stream(frame) for _, frame in frames]), whole, rtol=1e-4, atol=1e-4)
    watcher = task.watcher(net)
    rows = [row for number, (time, frame) in enumerate(frames) for row in watcher.see(number, time, frame)]
    rows += watcher.finish()
    assert task.heard(whole)
    assert " ".join(row["text"] for row in rows if row["final"]) == task.heard(whole)


@pytest.mark.parametrize("name", ["causal", "both"])
def test_the_command_streams_a_file(runs, root, name, tmp_path, capsys):
    record = split(root)["test"][0]
    main(
        [
            "stream",
            record.path,
            "--checkpoint",
            str(runs[name]),
            "--decoder",
            "beam",
            "--json",
            str(tmp_path / "r.json"),
        ]
    )
    assert "windows with" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "r.json").read_text().splitlines()]
    assert rows
    assert all(set(row) == {"text", "start_s", "end_s", "final"} for row in rows)
    assert rows[-1]["final"]


def test_a_microphone_that_is_not_there(runs, capsys):
    assert main(["stream", "microphone:nope", "--checkpoint", str(runs["causal"])]) == 2
    assert "microphone:nope: can't be read as sound" in capsys.readouterr().err
    assert main(["stream", "microphone:nope", "--checkpoint", str(runs["both"])]) == 2
    assert "microphone:nope: expected a file, as the network hears both directions" in capsys.readouterr().err
    for words in (["--fps", "10"], ["--deinterlace"], ["--video", "x.mp4"]):
        assert main(["stream", "x.wav", "--checkpoint", str(runs["causal"]), *words]) == 2
        assert f"{words[0]}: expected a stream of pictures" in capsys.readouterr().err


def test_training_leaves_out_what_can_not_be_used(root, tmp_path, capsys):
    import shutil

    shutil.copytree(root, tmp_path / "vctk")
    bad = tmp_path / "vctk"
    (bad / "txt" / "p225" / "p225_000.txt").unlink()
    (bad / "txt" / "p225" / "p225_001.txt").write_bytes(b"\xff\xfe")
    (bad / "wav48" / "p225" / "p225_002.wav").write_text("no sound")
    (bad / "txt" / "p225" / "p225_003.txt").write_text("a" * 500)
    small = ["--model.recipe.hidden_size", "4", "--model.recipe.num_layers", "1", "--data.num_workers", "0"]
    small += ["--trainer.max_epochs", "1", "--data.holdout", "0", "--data.task.rate_hz", "8000"]
    small += ["--model.recipe.backbone_options", '{"filters": 1}', "--trainer.default_root_dir", str(tmp_path / "run")]
    main(["fit", "--config", "configs/speech.yaml", "--data.root", str(bad), *small])
    assert "skipped 4 videos:" in capsys.readouterr().out
    assert main(["fit", "--config", "configs/speech.yaml", "--data.root", str(bad), *small, "--data.on_error", "raise"])
    assert "p225_00" in capsys.readouterr().err
