"""Optical flow: what it computes, and stacks of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_videos import ALL, SMALL, moving
from prernn.media import flow
from prernn.media.flow import FlowSettings, FlowStack, flow_frames
from prernn.media.flow_cache import read_flow_clip
from prernn.media.sampling import Sampling, sample_times


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 0), (0, 1), (0, -2), (1, 2)])
def test_a_moving_texture_has_its_own_speed(dx, dy):
    flows = list(flow_frames(moving(3, dx, dy), FlowSettings(short_side=None, bound=4)))
    for one in flows[1:]:
        inside = one[5:-5, 5:-5].reshape(-1, 2)
        speed = (np.median(inside, axis=0) - 128) * 4 / 127
        np.testing.assert_allclose(speed, (dx, dy), atol=0.15)


def test_the_first_frame_has_no_motion_and_there_are_as_many_flows_as_frames():
    flows = list(flow_frames(moving(4), SMALL))
    assert len(flows) == 4
    assert (flows[0] == 128).all()
    assert all(one.dtype == np.uint8 and one.shape == (16, 21, 2) for one in flows)
    assert list(flow_frames([], SMALL)) == []


def test_flow_depends_on_nothing_that_comes_later():
    frames = moving(5)
    changed = frames.copy()
    changed[3:] = 255 - changed[3:]
    for before, after in list(zip(flow_frames(frames, SMALL), flow_frames(changed, SMALL), strict=True))[:3]:
        assert np.array_equal(before, after)


@given(st.lists(st.floats(-50, 50), min_size=1), st.floats(0.1, 40))
def test_levels_are_rounded_pixels_within_the_bound(pixels, bound):
    levels = flow._quantized(np.array(pixels), bound)
    for pixel, level in zip(pixels, levels.tolist(), strict=True):
        assert abs((level - 128) * bound / 127 - max(-bound, min(bound, pixel))) <= bound / 127 / 2 + 1e-6
    # what mirroring negates is the level of the negated flow
    assert np.array_equal(256 - levels.astype(int), flow._quantized(-np.array(pixels), bound))


def test_flow_that_is_no_number_counts_as_none():
    assert flow._quantized(np.array([np.nan, np.inf, -np.inf]), 5).tolist() == [128, 255, 1]


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (24, 32, 16, (16, 21)),
        (32, 24, 12, (16, 12)),
        (24, 32, 40, (24, 32)),
        (9, 7, None, (9, 7)),
    ],
)
def test_frames_are_shrunk_to_the_short_side(height, width, side, expected):
    frames = moving(2, height=height, width=width)
    for one in flow_frames(frames, FlowSettings(short_side=side)):
        assert one.shape == (*expected, 2)


def test_frames_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected a uint8 frame \(24, 32, 3\), got uint8 \(20, 32, 3\)"):
        list(flow_frames([moving(1)[0], moving(1, height=20)[0]], SMALL))
    with pytest.raises(ValueError, match="expected a uint8 frame"):
        list(flow_frames([np.zeros((8, 8, 3))], SMALL))
    with pytest.raises(ValueError, match="expected a uint8 frame"):
        list(flow_frames([np.zeros((8, 8), np.uint8)], SMALL))


@pytest.mark.parametrize(
    "values", [{"short_side": 0}, {"bound": 0}, {"bound": float("inf")}, {"bound": float("nan")}, {"method": "dis"}]
)
def test_settings_that_make_no_sense(values):
    with pytest.raises(ValueError, match=r"expected .* got"):
        FlowSettings(**values)


def test_settings_survive_json():
    made = FlowSettings(short_side=None, bound=7)
    assert FlowSettings(**json.loads(json.dumps(dataclasses.asdict(made)))) == made
    assert json.dumps(dataclasses.asdict(made)) == json.dumps(dataclasses.asdict(FlowSettings(None, 7.0)))


def brute_force_stack(flows, pick, stack):
    """(2 stack, H, W) of one frame, written out channel by channel."""
    out = np.full((2 * stack, *flows.shape[1:3]), 128, np.uint8)
    for place in range(stack):
        t = pick - stack + 1 + place
        if t >= 0:
            out[2 * place] = flows[t, :, :, 0]
            out[2 * place + 1] = flows[t, :, :, 1]
    return out


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(
        [Sampling(5), Sampling(4, "random"), Sampling(6, "consecutive", stride=2), ALL, Sampling(3, fps=10)]
    ),
    st.integers(1, 20),
    st.none() | st.integers(0, 99),
)
def test_a_clip_has_the_flows_up_to_each_picked_frame(cached, sampling, stack, seed):
    _, flows, file = cached

    def chance():
        return None if seed is None else torch.Generator().manual_seed(seed)

    clip = read_flow_clip(file, sampling, chance(), stack=stack, settings=SMALL)
    picks = sample_times([i / 25 for i in range(len(flows))], sampling, chance())
    assert clip.dtype == torch.uint8
    expected = np.stack([brute_force_stack(flows, pick, stack) for pick in picks])
    assert np.array_equal(clip.numpy(), expected)


def test_a_stream_and_the_cache_give_the_same_numbers(cached):
    frames, _, file = cached
    clip = read_flow_clip(file, ALL, stack=4)
    flow = FlowStack(SMALL, 4)
    for frame, expected in zip(frames, clip, strict=True):
        assert np.array_equal(flow(frame).transpose(2, 0, 1), expected)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_stack_without_frames_is_refused(cached, wrong):
    with pytest.raises(ValueError, match=f"flow stack: expected at least 1 frame, got {wrong}"):
        FlowStack(SMALL, wrong)
    with pytest.raises(ValueError, match="flow stack"):
        read_flow_clip(cached[2], ALL, stack=wrong)
