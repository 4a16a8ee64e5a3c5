"""Sampling in time and transforms in space."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.media.sampling import Sampling, sample_indices, sample_times
from prernn.media.transforms import FLOW_MEAN, FLOW_STD, TransformSpec, clip_transform, frame_transform

RULES = ("uniform", "random", "consecutive", "all")


@st.composite
def samplings(draw):
    rule = draw(st.sampled_from(RULES))
    stride = draw(st.integers(1, 5)) if rule in ("consecutive", "all") else 1
    frames = draw(st.none() | st.integers(1, 40)) if rule == "all" else draw(st.integers(1, 40))
    return Sampling(frames, rule, stride=stride)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 300), samplings(), st.none() | st.integers(0, 99))
def test_indices_are_ascending_within_range_and_reproducible(total, sampling, seed):
    def draw():
        return sample_indices(total, sampling, None if seed is None else generator(seed))

    indices = draw()
    assert indices == sorted(set(indices))
    assert all(0 <= i < total for i in indices)
    assert indices == draw()
    if sampling.frames is not None:
        assert len(indices) <= sampling.frames
    assert bool(indices) == (total > 0)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99))
def test_random_takes_one_frame_of_each_equal_segment(total, frames, seed):
    picks = sample_indices(total, Sampling(frames, "random"), generator(seed))
    count = min(frames, total)
    assert len(picks) == count
    for i, pick in enumerate(picks):
        assert i * total // count <= pick < (i + 1) * total // count


@given(st.integers(1, 300), samplings().filter(lambda s: s.rule == "consecutive"), st.none() | st.integers(0, 99))
def test_consecutive_is_one_run_as_long_as_the_video_allows(total, sampling, seed):
    picks = sample_indices(total, sampling, None if seed is None else generator(seed))
    assert np.all(np.diff(picks) == sampling.stride)
    one_more = picks[-1] - picks[0] + sampling.stride
    assert len(picks) == sampling.frames or one_more >= total


def test_indices_by_example():
    assert sample_indices(8, Sampling(4)) == [1, 3, 5, 7]
    assert sample_indices(3, Sampling(8)) == [0, 1, 2]
    assert sample_indices(10, Sampling(4, "random")) == sample_indices(10, Sampling(4, "uniform"))
    assert sample_indices(10, Sampling(4, "consecutive")) == [3, 4, 5, 6]
    assert sample_indices(10, Sampling(3, "consecutive", stride=3)) == [1, 4, 7]
    assert sample_indices(5, Sampling(8, "consecutive")) == [0, 1, 2, 3, 4]
    assert sample_indices(9, Sampling(3, "all", stride=2)) == [0, 2, 4]
    assert sample_indices(4, Sampling(None, "all")) == [0, 1, 2, 3]


def test_a_generator_makes_random_and_consecutive_vary():
    for rule in ("random", "consecutive"):
        draws = {tuple(sample_indices(100, Sampling(5, rule), generator(seed))) for seed in range(20)}
        assert len(draws) > 10


def test_resampling_takes_the_nearest_frame_in_time():
    steady = [i / 30 for i in range(90)]
    assert sample_times(steady, Sampling(None, "all", fps=10)) == list(range(0, 90, 3))
    assert sample_times(steady, Sampling(None, "all", fps=30)) == list(range(90))
    assert sample_times([t + 7 for t in steady], Sampling(None, "all", fps=10)) == list(range(0, 90, 3))
    uneven = [0.0, 0.1, 0.2, 2.2, 2.3]
    assert sample_times(uneven, Sampling(None, "all", fps=2)) == [0, 2, 2, 3, 3]  # ticks 0, .5, 1, 1.5, 2
    assert sample_times(uneven, Sampling(8, "uniform", fps=2)) == [0, 2, 3]
    assert sample_times([0.0, 0.5], Sampling(None, "all", fps=4)) == [0, 0, 1]  # halfway counts as the earlier
    assert sample_times([], Sampling(None, "all", fps=4)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"rule": "every"},
        {"frames": 0},
        {"frames": None, "rule": "uniform"},
        {"fps": 0},
        {"fps": float("nan")},
        {"rule": "consecutive", "stride": 0},
        {"rule": "random", "stride": 2},
    ],
)
def test_sampling_that_makes_no_sense(values):
    with pytest.raises(ValueError, match=r"expected .* got"):
        Sampling(**values)


def test_a_negative_number_of_frames():
    with pytest.raises(ValueError, match="expected 0 or more, got -1"):
        sample_indices(-1, Sampling())


def test_records_survive_json():
    sampling = Sampling(8, "consecutive", fps=12.5, stride=2)
    assert Sampling(**json.loads(json.dumps(dataclasses.asdict(sampling)))) == sampling
    spec = TransformSpec(size=64, resize=80, mean=(0.1, 0.2, 0.3), scale=(0.5, 0.9), flip=False)
    assert TransformSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"got \['croop'\]"):
        TransformSpec.from_dict({"size": 64, "croop": 1})


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"size": 64, "resize": 32},
        {"std": (1, 0, 1)},
        {"mean": (0.5, 0.5)},
        {"mean": ()},
        {"std": 0},
        {"mean": 0.5, "std": (1, 1, 1), "flow": True},
        {"scale": (0.9, 0.5)},
        {"scale": (0, 1)},
    ],
)
def test_a_spec_that_makes_no_sense(values):
    with pytest.raises(ValueError, match=r"expected .* got"):
        TransformSpec(**values)


def test_a_recipe_from_before_flow_still_loads():
    old = {"size": 64, "resize": None, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "scale": [0.6, 1.0], "flip": True}
    spec = TransformSpec.from_dict(json.loads(json.dumps(old)))
    assert spec == TransformSpec(size=64, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert not spec.flow


def test_channels_are_those_of_mean_and_std():
    assert TransformSpec().channels == 3
    assert TransformSpec(mean=0.5, std=1).channels is None
    assert TransformSpec(mean=0.5, std=(1,)) == TransformSpec(mean=(0.5,), std=1)
    assert TransformSpec(mean=0.5, std=(1, 2, 3, 4)).channels == 4


def random_clip(frames, height, width, seed=0, channels=3):
    return torch.randint(0, 256, (frames, channels, height, width), dtype=torch.uint8, generator=generator(seed))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(8, 60), st.integers(8, 60), st.integers(0, 9), st.integers(0, 99))
def test_training_treats_every_frame_of_a_clip_the_same(frames, height, width, more, seed):
    transform = clip_transform(TransformSpec(size=16, resize=16 + more), train=True)
    still = random_clip(1, height, width).expand(frames, -1, -1, -1)
    torch.manual_seed(seed)
    out = transform(still)
    assert out.shape == (frames, 3, 16, 16)
    assert out.dtype == torch.float32
    assert type(out) is torch.Tensor
    assert all(torch.equal(frame, out[0]) for frame in out)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(8, 60), st.integers(8, 60), st.integers(0, 9))
def test_one_frame_is_transformed_exactly_as_in_its_clip(frames, height, width, more):
    spec = TransformSpec(size=16, resize=16 + more)
    clip = random_clip(frames, height, width)
    out = clip_transform(spec, train=False)(clip)
    for image, expected in zip(clip.permute(0, 2, 3, 1), out, strict=True):
        assert torch.equal(frame_transform(spec)(image.numpy()), expected)
        assert torch.equal(frame_transform(spec)(image), expected)
    assert torch.equal(clip_transform(spec, train=False)(clip.to(memory_format=torch.channels_last)), out)


def test_pixels_are_scaled_and_normalized():
    spec = TransformSpec(size=4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    white = torch.full((2, 3, 6, 9), 255, dtype=torch.uint8)
    expected = torch.tensor([1.0, 3.0, 0.5])[:, None, None].expand(2, 3, 4, 4)
    torch.testing.assert_close(clip_transform(spec, train=False)(white), expected)


def test_evaluation_resizes_the_short_side_and_crops_the_center():
    clip = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    clip[..., 10:30] = 255  # the middle square is white
    spec = TransformSpec(size=10, mean=(0, 0, 0), std=(1, 1, 1))
    out = clip_transform(spec, train=False)(clip)
    assert out[..., 1:-1].min() == 1  # the crop is that square, but for its smoothed edge


def test_training_crops_and_flips_vary():
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64)
    outs = []
    for seed in range(20):
        torch.manual_seed(seed)
        outs.append(clip_transform(TransformSpec(size=16), train=True)(ramp)[0, 0, 0])
    rising = [bool(out[-1] > out[0]) for out in outs]
    assert {True, False} == set(rising)
    assert len({float(abs(out[-1] - out[0])) for out in outs}) > 10
    torch.manual_seed(0)
    still = [clip_transform(TransformSpec(size=16, flip=False), train=True)(ramp)[0, 0, 0] for _ in range(20)]
    assert all(out[-1] > out[0] for out in still)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"expected uint8 \(T, 3, H, W\), got torch.float32"):
        clip_transform(TransformSpec(), train=False)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), got torch.uint8 \(3, 8, 8\)"):
        frame_transform(TransformSpec())(np.zeros((3, 8, 8), np.uint8))
    flow = TransformSpec(mean=FLOW_MEAN, std=FLOW_STD, flow=True)
    with pytest.raises(ValueError, match=r"expected uint8 \(T, C even, H, W\), got torch.uint8 \(2, 3, 8, 8\)"):
        clip_transform(flow, train=False)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 4\), got torch.uint8 \(8, 8, 3\)"):
        frame_transform(TransformSpec(mean=(0.5,) * 4, std=1))(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("flow", [False, True])
def test_transforms_can_go_to_worker_processes(train, flow):
    clip = random_clip(2, 20, 30, channels=4)
    transform = clip_transform(TransformSpec(size=16, mean=0.5, std=0.2, flow=flow), train)
    outs = []
    for copy in (transform, pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(0)
        outs.append(copy(clip))
    assert torch.equal(*outs)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([1, 2, 4, 20]), st.integers(8, 40), st.integers(8, 40), st.booleans())
def test_any_number_of_channels_is_treated_as_each_channel_alone(channels, height, width, several):
    mean, std = (0.1, 0.3) if not several else (torch.rand(channels).tolist(), (torch.rand(channels) + 0.1).tolist())
    spec = TransformSpec(size=16, resize=20, mean=mean, std=std)
    clip = random_clip(3, height, width, channels=channels)
    out = clip_transform(spec, train=False)(clip)
    assert out.shape == (3, channels, 16, 16)
    for c in range(channels):
        alone = (mean[c], std[c]) if several else (mean, std)
        grey = clip_transform(TransformSpec(size=16, resize=20, mean=alone[0], std=alone[1]), train=False)
        torch.testing.assert_close(out[:, c : c + 1], grey(clip[:, c : c + 1]))
    frame = frame_transform(spec)(clip[0].permute(1, 2, 0).numpy())
    assert torch.equal(frame, out[0])


def mirrored(outs, plain):
    return [out for out in outs if not torch.equal(out, plain)]


def test_mirrored_flow_runs_the_other_way():
    # size and scale leave the picture whole, so that only the flip is random
    spec = TransformSpec(size=8, mean=0, std=1, scale=(1, 1), flow=True)
    clip = random_clip(2, 8, 8, channels=6)
    clip[0, 0, 0, :3] = torch.tensor([0, 128, 255], dtype=torch.uint8)
    transform, outs = clip_transform(spec, train=True), []
    for seed in range(12):
        torch.manual_seed(seed)
        outs.append((transform(clip) * 255).round().to(torch.uint8))
    expected = clip.clone()
    for t in range(2):
        for c in range(6):
            for y in range(8):
                for x in range(8):
                    value = int(clip[t, c, y, 7 - x])
                    expected[t, c, y, x] = min(256 - value, 255) if c % 2 == 0 else value
    turned = mirrored(outs, clip)
    assert 0 < len(turned) < 12
    assert all(torch.equal(out, expected) for out in turned)


def test_no_motion_stays_no_motion_when_it_is_mirrored():
    spec = TransformSpec(size=8, mean=FLOW_MEAN, std=FLOW_STD, flow=True)
    still = torch.full((3, 20, 9, 12), 128, dtype=torch.uint8)
    for seed in range(8):
        torch.manual_seed(seed)
        assert clip_transform(spec, train=True)(still).abs().max() < 1e-6


def test_flow_that_is_not_flipped_keeps_its_sign():
    clip = random_clip(1, 8, 8, channels=2)
    spec = TransformSpec(size=8, mean=0, std=1, scale=(1, 1), flow=True, flip=False)
    for seed in range(8):
        torch.manual_seed(seed)
        assert torch.equal((clip_transform(spec, train=True)(clip) * 255).round().to(torch.uint8), clip)


@pytest.mark.parametrize("turn", [{"rotation": 30.0}, {"shear": 20.0}], ids=str)
def test_rotation_and_shear_are_those_of_a_clip_and_of_training_alone(turn):
    spec = TransformSpec(size=32, scale=(1.0, 1.0), flip=False, mean=0.0, std=1.0, **turn)
    frame = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    frame[..., 8:24, 14:18] = 255
    clip = frame.expand(4, -1, -1, -1)
    straight = clip_transform(spec, train=False)(clip)
    torch.testing.assert_close(straight, clip / 255)
    torch.manual_seed(0)
    turned = [clip_transform(spec, train=True)(clip) for _ in range(3)]
    for each in turned:
        assert torch.equal(each, each[:1].expand(4, -1, -1, -1))  # a clip is turned as one
        assert (each - straight).abs().mean() > 0.005
    assert not torch.equal(turned[0], turned[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rotation": -1.0}, "rotation of 0 to 180"),
        ({"shear": 90.0}, "shear below 90"),
        ({"rotation": 5.0, "flow": True, "mean": 0.5, "std": 1.0}, "no rotation and no shear"),
    ],
)
def test_rotation_and_shear_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        TransformSpec(**wrong)
