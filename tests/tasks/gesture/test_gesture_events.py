"""Gestures in a stream as rows, commands and pictures."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prernn
from prernn.conversion.recipe import KeptTask, Recipe
from prernn.models.networks.c3d import C3D
from prernn.streaming.stream import Stream
from prernn.tasks.events.ctc_decoders import BeamDecoder, GreedyDecoder
from prernn.tasks.gesture.extent import gesture_decoder
from prernn.tasks.gesture.watcher import GestureWatcher, load_commands

LABELS = ["no gesture", "swipe left", "tap", "swipe O"]
FRAME = np.zeros((60, 80, 3), np.uint8)
PLAYER = Path(__file__).parents[3] / "configs" / "player.yaml"


class Script(Stream):
    """A stream whose snippets of 4 frames give one output of a script after the other."""

    def __init__(self, outputs, recipe=None, labels=LABELS):
        self.net, self.labels, self.batch_size = SimpleNamespace(recipe=recipe or Recipe()), labels, 1
        self.outputs, self.frames = outputs, 0

    def __call__(self, frame):
        self.frames += 1
        return self.outputs[self.frames // 4 - 1] if self.frames % 4 == 0 else None

    def reset(self):
        self.frames = 0


def outputs_of(path, sure=6.0):
    return sure * torch.nn.functional.one_hot(torch.tensor(path), len(LABELS)).double()


def watch(watcher, frames, fps=10.0, start=0):
    rows = [watcher.see(start + i, i / fps, FRAME) for i in range(frames)]
    return [*rows, watcher.finish()]


def test_a_gesture_is_told_when_it_begins_and_when_it_has_ended():
    watcher = GestureWatcher(Script(outputs_of([0, 1, 1, 0, 2])), commands={"swipe left": "next"})
    rows = watch(watcher, 22)
    assert [i for i, group in enumerate(rows) if group] == [7, 15, 19, 22]
    begin, end, second, last = (row for group in rows for row in group)
    assert json.loads(json.dumps(begin)) == begin
    probability = begin.pop("probability")
    assert probability == pytest.approx(float(outputs_of([1]).softmax(-1).max()), abs=1e-4)
    assert begin == {
        "event": "begin",
        "label": "swipe left",
        "command": "next",
        "begin_frame": 4,
        "begin_s": 0.4,
        "end_frame": None,
        "end_s": None,
        "frame": 7,
        "time_s": 0.7,
    }
    told = {name: value for name, value in begin.items() if name != "command"}
    assert end == told | {
        "event": "end",
        "end_frame": 12,
        "end_s": 1.2,
        "frame": 15,
        "time_s": 1.5,
        "probability": probability,
    }
    assert (second["label"], second["begin_frame"], second["frame"]) == ("tap", 16, 19)
    assert "command" not in second
    # the source ended two frames into a snippet: the gesture lasts as far as is known
    assert (last["event"], last["label"], last["end_frame"], last["end_s"]) == ("end", "tap", 22, 2.1)


def test_frames_are_those_of_the_source_and_a_finished_watcher_is_as_new():
    watcher = GestureWatcher(Script(outputs_of([0, 1, 0])))
    first = [row for group in watch(watcher, 12, start=100) for row in group]
    assert [(row["begin_frame"], row["end_frame"]) for row in first] == [(104, None), (104, 108)]
    second = [row for group in watch(watcher, 12, start=100) for row in group]
    assert first == second


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.sampled_from([1, 2, 6]), st.integers(0, 3))
def test_rows_are_the_decoders_events_in_frames(path, patience, more):
    outputs = outputs_of(path, sure=2.0) + torch.randn(len(path), 4, generator=torch.Generator().manual_seed(len(path)))
    for decoder in (GreedyDecoder(), BeamDecoder(4, certainty=0.7, patience=patience)):
        frames = 4 * len(path) + more
        rows = watch(GestureWatcher(Script(outputs), decoder=decoder), frames)
        found = [(row["event"], row["label"], row["begin_frame"], row["end_frame"]) for group in rows for row in group]
        wanted = [
            (e.kind, LABELS[e.label], 4 * e.begin, e.end and (4 * e.end if e.end < len(path) else frames))
            for e in decoder.events(outputs.log_softmax(-1))
        ]
        assert found == wanted


def test_a_long_stream_keeps_little():
    path = [0, 1, 2, 0, 3] * 200
    for decoder in ("greedy", BeamDecoder(patience=5)):
        watcher = GestureWatcher(Script(outputs_of(path)), decoder=decoder)
        rows = [row for group in watch(watcher, 4 * len(path)) for row in group]
        assert len(rows) == 2 * 3 * 200
        assert watcher._starts.maxlen <= 23
        assert [row["begin_frame"] for row in rows[::2]] == [4 * t for t, k in enumerate(path) if k]


def test_the_decoder_is_that_of_the_network_unless_another_is_asked_for():
    recipe = Recipe(task=KeptTask("gesture", {"decoder": "beam", "decoder_options": {"width": 3}}))
    assert GestureWatcher(Script([], recipe)).decoder.decoder.width == 3
    assert isinstance(GestureWatcher(Script([], recipe), decoder="greedy").decoder.decoder, GreedyDecoder)
    assert isinstance(GestureWatcher(Script([])).decoder.decoder, GreedyDecoder)
    plain = Recipe(task=KeptTask("gesture", {"decoder": "greedy", "extent": 1.0}))
    assert isinstance(GestureWatcher(Script([], plain)).decoder, GreedyDecoder)


def test_a_network_streams_what_it_gives_for_the_whole_video():
    net = prernn.convert(C3D(4, frames=8, width=2, units=16, size=16), "fc7", cell="gru", image_size=(8, 16, 16)).eval()
    net.recipe = replace(net.recipe, labels=LABELS, transform={"size": 16, "mean": (0.5,) * 3, "std": (0.01,) * 3})
    frames = np.random.default_rng(0).integers(0, 256, (51, 16, 16, 3), dtype=np.uint8)
    video = (torch.from_numpy(frames[:48]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.01  # the last 3 are no snippet
    video = video.unflatten(0, (6, 8)).transpose(1, 2)[None]  # (1, 6, 3, 8, 16, 16)
    with torch.no_grad():
        net.get_parameter("cnn.fc8.bias").sub_(net(video)[0].mean((0, 1)))  # so that no output is always the best
        out = net(video)[0][0]  # (6, 4)
    wanted = [(e.kind, LABELS[e.label], 8 * e.begin) for e in gesture_decoder("greedy").events(out.log_softmax(-1))]
    watcher = GestureWatcher(net)
    rows = [row for i, frame in enumerate(frames) for row in watcher.see(i, i / 25, frame)] + watcher.finish()
    assert [(row["event"], row["label"], row["begin_frame"]) for row in rows] == wanted
    assert wanted


def test_the_picture_tells_the_gesture_and_the_last_command():
    watcher = GestureWatcher(Script(outputs_of([0, 1, 0])), commands={"swipe left": "next"})
    pictures = []
    for i in range(12):
        watcher.see(i, i / 10, FRAME)
        pictures.append(watcher.draw(FRAME))
    assert all(picture.shape == FRAME.shape and picture.dtype == np.uint8 for picture in pictures)
    assert not FRAME.any()
    # the label stands below, the command above, both beside the latency
    label, command = [picture[40:, :40] for picture in pictures], [picture[:40, :30] for picture in pictures]
    assert not np.array_equal(label[3], label[7])
    assert np.array_equal(label[3], label[11])
    assert not command[3].any()
    assert command[7].any()
    assert np.array_equal(command[7], command[11])  # the gesture is over, its command was still the last


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has labels, no gesture first, got one without"):
        GestureWatcher(Script([], labels=None))
    with pytest.raises(ValueError, match=r"commands: expected labels among \['swipe left', .* got \['wave'\]"):
        GestureWatcher(Script([]), commands={"wave": "hello"})
    with pytest.raises(ValueError, match="decoder: expected one of"):
        GestureWatcher(Script([]), decoder="viterbi")
    several = Script([])
    several.batch_size = 2
    with pytest.raises(ValueError, match="one stream for one source, got batch_size=2"):
        GestureWatcher(several)
    with pytest.raises(ValueError, match="expected 3 labels, one an output, got 4"):
        watch(GestureWatcher(Script(torch.zeros(2, 3))), 4)


@pytest.mark.parametrize("text", ["swipe left: next\ntap: play\n", '{"swipe left": "next", "tap": "play"}'])
def test_commands_are_read_from_yaml_or_json(tmp_path, text):
    (tmp_path / "player.yaml").write_text(text)
    assert load_commands(tmp_path / "player.yaml", LABELS) == {"swipe left": "next", "tap": "play"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "expected lines 'label: command', got None"),
        ("- tap", "expected lines 'label: command', got"),
        ("tap: on", "expected text, in quotes .* got 'tap': True"),
        ("1: next", "expected text, in quotes .* got 1: 'next'"),
        ("tap: {a: b", "expected YAML or JSON, got"),
        ("wave: hello", r"expected labels among .* got \['wave'\]"),
    ],
)
def test_commands_that_do_not_fit_name_the_file(tmp_path, text, wrong):
    (tmp_path / "player.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"player.yaml: {wrong}"):
        load_commands(tmp_path / "player.yaml", LABELS)


def test_an_absent_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.yaml: no such file of commands"):
        load_commands(tmp_path / "none.yaml")


def test_the_player_example_has_a_command_for_each_of_its_gestures():
    table = load_commands(PLAYER)
    assert len(table) == len(set(table.values())) == 13
    assert {"swipe left", "swipe right", "one (static)"} <= set(table)
