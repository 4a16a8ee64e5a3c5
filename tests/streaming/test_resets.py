"""Reset policies: where a stream starts anew, that it is then as a new one, and that it can be saved anywhere."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from equations import close
from prernn.media.video import read_frames
from prernn.streaming.resets import CUT_CHANGE, GRID, STILL, Cut, Idle, reset_policy, thumbnail
from prernn.streaming.stream import Stream
from streamed_networks import NETWORKS, network, pictures
from video_files import SHARED, needs_shared

EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}


def shot(level, count, size=(32, 40), seed=0):
    """Pictures of one shot: a scene of a brightness, in which something moves."""
    chance = np.random.default_rng([seed, level])
    scene = np.clip(chance.normal(level, 30, (*size, 3)), 0, 255).astype(np.uint8)
    frames = np.stack([scene] * count)
    for number, frame in enumerate(frames):
        place = 3 * number % (size[1] - 6)
        frame[4:12, place : place + 6] = 255 - frame[4:12, place : place + 6]
    return frames


SHOTS = np.concatenate([shot(40, 7), shot(120, 5), shot(220, 9)])
STARTS = [0, 7, 12]
"""Three shots, and where each begins."""


def run(stream, frames, times=None):
    return [stream(frame, time) for frame, time in zip(frames, times or [None] * len(frames), strict=True)]


def plain(net, frames):
    """What a stream without resets says of the last of some frames."""
    return run(Stream(net, reset="never"), frames)[-1]


def test_a_cut_is_where_the_shot_changes():
    policy = Cut()
    assert [number for number, frame in enumerate(SHOTS) if policy.due(thumbnail(frame), 0.0)] == STARTS[1:]


def test_fast_motion_is_no_cut_and_neither_is_noise():
    chance = np.random.default_rng(0)
    fast = [np.full((32, 32, 3), 128 + 100 * (number % 2), np.uint8) for number in range(40)]
    noise = chance.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    for frames in (fast, noise):
        policy = Cut()
        assert not any(policy.due(thumbnail(frame), 0.0) for frame in frames)


@settings(deadline=None, max_examples=150)
@given(changes=st.lists(st.floats(0, 100) | st.sampled_from([1.0, 1.0, 1.0, 20.0, 30.0, 60.0]), max_size=40))
def test_a_cut_is_large_and_larger_than_what_was_before(changes):
    """By the definition, change by change: a grey picture whose level goes up and down."""
    policy, level, known, rise = Cut(), 0.0, [], 1
    policy.due(torch.zeros(GRID, GRID, 3), 0.0)
    for change in changes:
        level, rise = level + rise * change, -rise
        cut = policy.due(torch.full((GRID, GRID, 3), level, dtype=torch.float64), 0.0)
        expected = len(known) >= 3 and change > CUT_CHANGE and change > 2.5 * max(known[-8:])
        if abs(change - CUT_CHANGE) > 1e-9 and not any(abs(change - 2.5 * other) < 1e-9 for other in known):
            assert cut == expected
        known = [] if cut else [*known, change]


@pytest.mark.parametrize("name", [*NETWORKS])
def test_after_a_cut_a_stream_is_as_a_new_one(name):
    net = NETWORKS[name]()
    net.recipe = replace(net.recipe, transform=network().recipe.transform)
    outputs = run(Stream(net, reset="cut"), SHOTS)
    for start, stop in zip(STARTS, [*STARTS[1:], len(SHOTS)], strict=True):
        expected = run(Stream(net, reset="never"), SHOTS[start:stop])
        close(outputs[start:stop], expected, **EXACT)


def test_every_n_answers_from_a_state_of_half_its_age_to_its_age(net):
    frames, half = torch.randn(17, 3, 8, 8), 3
    outputs = run(Stream(net, reset="every:6"), frames)
    for number, out in enumerate(outputs):
        start = max(0, (number // half - 1) * half)
        close(out, plain(net, frames[start : number + 1]), **EXACT)
        assert number < half or half < number + 1 - start <= 2 * half


def test_every_n_of_snippets(snippet_net):
    frames = pictures(44)
    outputs = run(Stream(snippet_net, reset="every:16"), frames)
    for number, out in enumerate(outputs):
        assert (out is None) == (number % 4 != 3)
        if out is not None:
            start = max(0, (number // 8 - 1) * 8)
            close(out, plain(snippet_net, frames[start : number + 1]), **EXACT)
    with pytest.raises(ValueError, match="every multiple of 8 frames, got 'every:12'"):
        Stream(snippet_net, reset="every:12")


def test_a_cut_within_a_snippet_begins_a_new_one(snippet_net):
    outputs = run(Stream(snippet_net, reset="cut"), SHOTS)
    assert [number for number, out in enumerate(outputs) if out is not None] == [3, 10, 15, 19]
    close(outputs[10], plain(snippet_net, SHOTS[7:11]), **EXACT)
    with pytest.raises(NotImplementedError, match="expected one stream of snippets, got 2"):
        Stream(snippet_net, reset="cut", batch_size=2)


STILLS = [0.0, 0.1, 0.2, 1.1, 1.2, 1.3, 2.5, 2.6, 2.7, 9.0, 9.1]
"""Times of frames of which the first, sixth, eighth and ninth show something new."""


def test_idle_starts_anew_in_stillness_at_its_end_and_after_a_gap():
    scenes = [10, 10, 10, 10, 10, 200, 200, 10, 200, 200, 200]
    frames = [np.full((8, 8, 3), level, np.uint8) for level in scenes]
    policy = Idle(1.0)
    due = [time for time, frame in zip(STILLS, frames, strict=True) if policy.due(thumbnail(frame), time)]
    # still for 1.1 s; the change at 1.3 s ends it; a gap of 1.2 s; a gap of 6.3 s
    assert due == [1.1, 1.3, 2.5, 9.0]


def test_idle_is_due_once_while_nothing_happens_and_bears_noise_and_jumps_back():
    chance, policy = np.random.default_rng(0), Idle(5.0)
    scene = chance.integers(20, 230, (192, 256, 3)).astype(float)
    times = [0.1 * number - (3.0 if number > 30 else 0.0) for number in range(120)]
    due = []
    for time in times:
        noisy = np.clip(scene + chance.normal(0, 8, scene.shape), 0, 255).astype(np.uint8)
        if policy.due(thumbnail(noisy), time):
            due.append(time)
    assert due == [pytest.approx(2.1, abs=0.11)]  # 5 s after the first, of which the jump is none
    moved = scene.copy()
    moved[:12, :16] += 2 * STILL  # a cell, of 256
    assert policy.due(thumbnail(np.clip(moved, 0, 255).astype(np.uint8)), times[-1] + 0.1)


def test_after_idleness_a_stream_is_as_a_new_one(net):
    net.recipe = replace(net.recipe, transform=network().recipe.transform)
    frames = np.concatenate([pictures(1).repeat(4, 0), pictures(6)[1:]])
    times = [0.0, 0.5, 1.0, 1.5, 1.6, 1.7, 1.8, 9.0, 9.1]
    outputs = run(Stream(net, reset="idle:1"), frames, times)
    for start, stop in ((0, 2), (2, 4), (4, 7), (7, 9)):
        close(outputs[start:stop], run(Stream(net, reset="never"), frames[start:stop]), **EXACT)


CASES = {"never": SHOTS, "cut": SHOTS, "idle:0.4": SHOTS, "every:6": SHOTS, "every:2": SHOTS}
TIMES = [number / 10 + (5 if number > 8 else 0) for number in range(len(SHOTS))]


@pytest.mark.parametrize("reset", CASES)
@pytest.mark.parametrize("streams", [1, 2])
def test_a_saved_stream_goes_on_with_what_its_reset_remembers(reset, streams, tmp_path):
    net = network("lstm")
    frames = SHOTS if streams == 1 else np.stack([SHOTS, SHOTS[::-1]], 1)
    whole = run(Stream(net, reset=reset, batch_size=streams), frames, TIMES)
    for cut in (1, 6, 7, 8, 12, 16):
        first, second = (Stream(net, reset=reset, batch_size=streams) for _ in range(2))
        run(first, frames[:cut], TIMES[:cut])
        save_file(first.state_dict(), tmp_path / "state.safetensors")
        run(second, frames[:3], TIMES[:3])  # whatever it was in
        second.load_state_dict(load_file(tmp_path / "state.safetensors"))
        close(run(second, frames[cut:], TIMES[cut:]), whole[cut:], **EXACT)


@pytest.mark.parametrize("reset", CASES)
def test_a_half_full_snippet_is_saved_with_its_reset(snippet_net, reset):
    reset = "every:8" if reset.startswith("every") else reset
    whole = run(Stream(snippet_net, reset=reset), SHOTS, TIMES)
    for cut in (1, 7, 10, 12, 19):
        first, second = Stream(snippet_net, reset=reset), Stream(snippet_net, reset=reset)
        run(first, SHOTS[:cut], TIMES[:cut])
        second.load_state_dict(first.state_dict())
        for out, expected in zip(run(second, SHOTS[cut:], TIMES[cut:]), whole[cut:], strict=True):
            assert (out is None) == (expected is None)
            assert out is None or torch.equal(out, expected)


@pytest.mark.parametrize("reset", CASES)
def test_streams_side_by_side_start_anew_each_by_its_own_pictures(reset):
    net = network("gru")
    other = np.concatenate([shot(200, 4, seed=1), shot(60, 17, seed=1)])
    times = [[time, time + (3.0 if number > 14 else 0.0)] for number, time in enumerate(TIMES)]
    both = run(Stream(net, reset=reset, batch_size=2), np.stack([SHOTS, other], 1), times)
    for row, frames in enumerate((SHOTS, other)):
        alone = run(Stream(net, reset=reset), frames, [pair[row] for pair in times])
        close([out[row] for out in both], alone, rtol=1e-5, atol=1e-6)


def test_a_row_of_an_rcn_starts_anew():
    import prernn
    from small_cnns import ResidualNet

    net = prernn.convert_rcn(ResidualNet(), hidden="diagonal").eval()
    net.recipe = replace(net.recipe, transform=network().recipe.transform)
    still = np.stack([SHOTS[0]] * len(SHOTS))
    both = run(Stream(net, reset="cut", batch_size=2), np.stack([SHOTS, still], 1))
    close(both[7][0], plain(net, SHOTS[7:8]), rtol=1e-5, atol=1e-6)
    close(both[-1][1], plain(net, still), rtol=1e-5, atol=1e-6)


def test_never_changes_nothing():
    net = network()
    stream = Stream(net)
    run(stream, SHOTS[:2])
    assert stream.state_dict().keys() == {"state_0_h"}
    assert stream.look(SHOTS[0]) == []
    close(run(Stream(net), SHOTS), run(Stream(net, reset="never"), SHOTS), **EXACT)


def test_the_recipe_says_the_policy_and_the_argument_another():
    net = network()
    net.recipe.reset = "cut"
    expected = plain(net, SHOTS[7:8])
    close(run(Stream(net), SHOTS[:8])[-1], expected, **EXACT)
    assert not torch.equal(run(Stream(net, reset="never"), SHOTS[:8])[-1], expected)
    net.recipe.reset = "now and then"
    with pytest.raises(ValueError, match="got 'now and then'"):
        Stream(net)


@pytest.mark.parametrize(
    "text", ["", "always", "cut:3", "idle", "idle:", "idle:0", "idle:nan", "idle:inf", "every:3", "every:0", "every:x"]
)
def test_unknown_policies_are_refused(text):
    with pytest.raises(ValueError, match=r"reset: expected never, cut, idle:SECONDS .* or every:N"):
        reset_policy(text)


def test_what_a_policy_cannot_look_at():
    with pytest.raises(ValueError, match=r"reset 'idle:5': expected the time of each frame"):
        Stream(network(), reset="idle:5")(SHOTS[0])
    with pytest.raises(NotImplementedError, match=r"stream.look\(picture, time\) before stream\(frame\)"):
        Stream(network(), reset="cut")(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="of 2 streams, got"):
        Stream(network(), reset="cut", batch_size=2)(SHOTS[:3])
    stream = Stream(network(), reset="cut")
    begun = []
    for number, picture in enumerate(SHOTS):
        begun += [number] * bool(stream.look(picture))
        stream(torch.zeros(3, 8, 8))  # a network that sees something else
    assert begun == STARTS[1:]
    assert Stream(network(), reset="every:4")(torch.zeros(3, 8, 8)) is not None


def test_the_memory_of_another_reset_is_refused():
    net = network()
    saved = {}
    for reset in ("never", "cut", "idle:1", "every:4"):
        stream = Stream(net, reset=reset)
        run(stream, SHOTS[:4], TIMES[:4])
        saved[reset] = stream.state_dict()
    for reset in saved:
        for other, values in saved.items():
            stream = Stream(net, reset=reset)
            run(stream, SHOTS[:3], TIMES[:3])
            before = stream.state_dict()
            if other in (reset, "never"):
                stream.load_state_dict(values)
                continue
            with pytest.raises(ValueError, match="expected"):
                stream.load_state_dict(values)
            close(stream.state_dict(), before, **EXACT)
    wrong = {**saved["cut"], "reset_changes": torch.zeros(1, 3)}
    with pytest.raises(ValueError, match=r"reset_changes of shape \(1, 8\), got \(1, 3\)"):
        Stream(net, reset="cut").load_state_dict(wrong)


FOOTAGE = {"bikes": [30, 76, 137, 187, 242], "carphone_pristine": [], "demo": [268], "vtest_384x288": []}
"""Frames of real footage at which a new shot begins, found by eye, but for one of demo in the sweep of its camera."""


@needs_shared
@pytest.mark.parametrize("name", FOOTAGE)
def test_cuts_of_real_footage(name):
    policy, frames = Cut(), itertools.islice(read_frames(SHARED / f"{name}.mp4"), 400)
    assert [number for number, (_, frame) in enumerate(frames) if policy.due(thumbnail(frame), 0.0)] == FOOTAGE[name]


def test_a_thumbnail_is_the_mean_of_cells():
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    cells = picture.reshape(16, 4, 16, 8, 3).mean((1, 3))
    assert np.abs(thumbnail(picture).numpy() - cells).max() <= 0.5
    assert torch.equal(thumbnail(torch.from_numpy(picture)), thumbnail(picture))
    large = np.full((1080, 1920, 3), 77, np.uint8)
    assert thumbnail(large).unique().tolist() == [77]
