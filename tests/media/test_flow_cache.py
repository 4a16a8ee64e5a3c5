"""Optical flow of whole folders, computed in advance: files, processes, interruptions, the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flow_videos import ALL, SMALL, moving, video
from footage import SHARED
from prernn.commands.main import main
from prernn.media import flow_cache
from prernn.media.flow import FlowSettings, FlowStack, flow_frames
from prernn.media.flow_cache import flow_file, precompute, read_flow_clip, read_settings
from prernn.media.sampling import Sampling
from prernn.media.video import VideoError, read_frames


def test_times_of_the_video_are_kept(tmp_path):
    frames = moving(9)
    video(tmp_path / "v" / "slow.mkv", frames, fps=5)
    precompute(tmp_path / "v", tmp_path / "c", SMALL, processes=1, progress=False)
    file = tmp_path / "c" / "slow.mkv.mkv"
    flows = np.stack(list(flow_frames(frames, SMALL)))
    clip = read_flow_clip(file, Sampling(None, "all", fps=2.5), stack=1)  # every second frame
    assert np.array_equal(clip.numpy(), flows[::2].transpose(0, 3, 1, 2))


def test_the_file_says_how_it_was_made(cached):
    assert read_settings(cached[2]) == SMALL
    with av.open(str(cached[2])) as container:
        assert json.loads(container.metadata["PRERNN_FLOW"]) == {"short_side": 16, "bound": 5.0, "method": "tvl1"}


@pytest.mark.parametrize("width", [2, 7, 33])
def test_any_width_is_stored_exactly(tmp_path, width):
    frames = moving(3, height=17, width=width)
    folder = tmp_path / "v" / "frames"
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i}.png")
    precompute(tmp_path / "v", tmp_path / "c", FlowSettings(None), processes=1, progress=False)
    clip = read_flow_clip(tmp_path / "c" / "frames.mkv", ALL, stack=1)
    expected = np.stack(list(flow_frames(frames, FlowSettings(None))))
    assert np.array_equal(clip.numpy(), expected.transpose(0, 3, 1, 2))


def test_every_level_is_stored_exactly(tmp_path, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (6, 40, 50, 2), dtype=np.uint8)
    monkeypatch.setattr(flow_cache, "Flow", lambda settings: lambda frame: levels[frame])
    flow_cache._write(tmp_path / "x.mkv", [(0.04 * i, i) for i in range(6)], SMALL)
    clip = read_flow_clip(tmp_path / "x.mkv", ALL, stack=1)
    assert np.array_equal(clip.numpy(), levels.transpose(0, 3, 1, 2))


def test_absent_foreign_and_damaged_files_are_named(cached, tmp_path):
    with pytest.raises(VideoError, match=r"nowhere.mkv: no such flow cache: run prernn flow$"):
        read_flow_clip(tmp_path / "nowhere.mkv", ALL)
    (tmp_path / "text.mkv").write_text("no video")
    with pytest.raises(VideoError, match=r"text.mkv: not a readable flow cache"):
        read_flow_clip(tmp_path / "text.mkv", ALL)
    plain = video(tmp_path / "plain.mkv", moving(3))
    with pytest.raises(VideoError, match=r"plain.mkv: expected a flow cache, found a file without its settings"):
        read_flow_clip(plain, ALL)
    with pytest.raises(VideoError, match=r'pan.mkv.mkv: expected flow with .*"bound": 20.0.*, got .*"bound": 5.0'):
        read_flow_clip(cached[2], ALL, settings=FlowSettings(short_side=16))


def test_a_file_that_was_cut_off_is_named_or_taken_as_far_as_it_goes(cached, tmp_path):
    _, flows, file = cached
    part = tmp_path / "cut.mkv"
    part.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match=r"cut.mkv: cut off after \d+ frames of flow"):
        read_flow_clip(part, ALL)
    clip = read_flow_clip(part, ALL, stack=1, tolerate_truncation=True)
    assert 0 < len(clip) < len(flows)
    assert np.array_equal(clip.numpy(), flows[: len(clip)].transpose(0, 3, 1, 2))


def test_names_in_the_cache_are_those_below_the_root(tmp_path):
    assert flow_file(tmp_path / "a/b.avi", tmp_path, "cache") == Path("cache/a/b.avi.mkv")
    assert flow_file("x/a.mp4", "x", tmp_path) == tmp_path / "a.mp4.mkv"
    with pytest.raises(ValueError, match="expected a video below"):
        flow_file("/elsewhere/a.avi", tmp_path, "cache")


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


EXPECTED = ["frames.mkv", "two.mkv.mkv", "x/one.mkv.mkv"]


def test_all_videos_below_a_folder_are_computed_also_with_the_cache_inside(videos):
    cache = videos / "cache"
    for _ in range(2):  # the second time, what the first one wrote is no video
        assert precompute(videos, cache, SMALL, processes=1, progress=False) == {}
        assert files_below(cache) == EXPECTED
    assert read_flow_clip(cache / "frames.mkv", ALL).shape == (3, 20, 16, 21)


@pytest.mark.slow  # the start of processes, each of which loads torch
def test_processes_give_the_same_files_and_skip_the_same_videos(videos, tmp_path):
    (videos / "bad.avi").write_bytes(b"RIFF rubbish")
    one = precompute(videos, tmp_path / "one", SMALL, processes=1, on_error="skip", progress=False)
    two = precompute(videos, tmp_path / "two", SMALL, processes=2, on_error="skip", progress=False)
    assert one == two
    assert list(two) == [str(videos / "bad.avi")]
    assert files_below(tmp_path / "two") == EXPECTED
    for name in EXPECTED:
        clips = [read_flow_clip(tmp_path / cache / name, ALL) for cache in ("one", "two")]
        assert torch.equal(*clips)


def test_what_is_there_is_left(videos, tmp_path):
    precompute(videos, tmp_path / "one", SMALL, processes=1, progress=False)
    (tmp_path / "one" / "two.mkv.mkv").unlink()
    before = {name: (tmp_path / "one" / name).stat().st_mtime_ns for name in (EXPECTED[0], EXPECTED[2])}
    precompute(videos, tmp_path / "one", SMALL, processes=1, progress=False)
    assert files_below(tmp_path / "one") == EXPECTED
    assert {name: (tmp_path / "one" / name).stat().st_mtime_ns for name in before} == before


def test_other_settings_are_an_error_until_they_may_overwrite(videos, tmp_path):
    cache, other = tmp_path / "cache", FlowSettings(short_side=8, bound=5)
    precompute(videos, cache, SMALL, processes=1, progress=False)
    with pytest.raises(ValueError, match=r'cache/.*: made with .*"short_side": 16.*, expected .*"short_side": 8'):
        precompute(videos, cache, other, processes=1, progress=False)
    assert all(read_settings(cache / name) == SMALL for name in EXPECTED)
    precompute(videos, cache, other, processes=1, overwrite=True, progress=False)
    assert all(read_settings(cache / name) == other for name in EXPECTED)
    (cache / "frames.mkv").write_text("damaged")
    with pytest.raises(ValueError, match=r"frames.mkv: .*delete it, or overwrite"):
        precompute(videos, cache, other, processes=1, progress=False)
    precompute(videos, cache, other, processes=1, overwrite=True, progress=False)
    assert read_settings(cache / "frames.mkv") == other


def test_a_video_that_cannot_be_read_is_skipped_or_raised(videos, tmp_path, capsys):
    (videos / "bad.avi").write_bytes(b"RIFF rubbish")
    whole = (videos / "two.mkv").read_bytes()
    (videos / "two.mkv").write_bytes(whole[: len(whole) // 2])
    skipped = precompute(videos, tmp_path / "c", SMALL, processes=1, on_error="skip")
    assert sorted(skipped) == [str(videos / "bad.avi"), str(videos / "two.mkv")]
    assert "bad.avi" in skipped[str(videos / "bad.avi")]
    assert files_below(tmp_path / "c") == ["frames.mkv", "x/one.mkv.mkv"]
    assert "skipped 2 of 4 videos:" in capsys.readouterr().out
    with pytest.raises(VideoError, match=r"bad.avi|two.mkv"):
        precompute(videos, tmp_path / "c", SMALL, processes=1, progress=False)
    precompute(videos, tmp_path / "c", SMALL, processes=1, on_error="skip", tolerate_truncation=True, progress=False)
    assert files_below(tmp_path / "c") == EXPECTED


def test_interrupted_in_a_video_it_leaves_no_part_of_a_file(videos, tmp_path, monkeypatch):
    seen, cache = [], tmp_path / "c"

    def interrupting(source, **options):
        for item in read_frames(source, **options):
            seen.append(item)
            if len(seen) == 6:  # in the second video
                assert any(name.endswith(".part") for name in files_below(cache))
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(flow_cache, "read_frames", interrupting)
    with pytest.raises(KeyboardInterrupt):
        precompute(videos, cache, SMALL, processes=1, progress=False)
    assert len(files_below(cache)) == 1
    assert read_flow_clip(cache / files_below(cache)[0], ALL).shape[0] in (3, 4)


def test_a_worker_that_is_told_to_stop_leaves_no_part_of_a_file(videos, tmp_path, monkeypatch):
    asked = iter([False, False, True])
    monkeypatch.setattr(flow_cache, "_stopped", lambda: next(asked))
    target = tmp_path / "c" / "two.mkv.mkv"
    assert flow_cache._compute((str(videos / "two.mkv"), str(target), SMALL, False)) == (
        str(videos / "two.mkv"),
        "stopped",
    )
    assert files_below(tmp_path / "c") == []


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_leaves_whole_files_alone(tmp_path):
    video(tmp_path / "v" / "short.mkv", moving(2))
    for name in "abc":
        video(tmp_path / "v" / f"{name}.mkv", np.concatenate([moving(20, height=120, width=160)] * 30))
    cache = tmp_path / "c"
    command = [sys.executable, "-m", "prernn.commands.main", "flow", str(tmp_path / "v"), "--cache", str(cache)]
    process = subprocess.Popen(
        [*command, "--processes", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 120
    while not list(cache.rglob(".*.part")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    left = files_below(cache)
    assert set(left) <= {"short.mkv.mkv"}
    for _ in range(300):  # the group ends, though multiprocessing's own tracker takes its time
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a worker goes on")


def test_wishes_that_make_no_sense_are_refused(tmp_path, videos):
    with pytest.raises(ValueError, match="nowhere: expected a folder of videos, found none"):
        precompute(tmp_path / "nowhere", tmp_path / "c", SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: expected videos or folders of frames below it, found none"):
        precompute(tmp_path / "empty", tmp_path / "c", SMALL)
    with pytest.raises(ValueError, match="processes: expected at least 1, got 0"):
        precompute(videos, tmp_path / "c", SMALL, processes=0)
    with pytest.raises(ValueError, match="on_error: expected"):
        precompute(videos, tmp_path / "c", SMALL, on_error="ignore")


def test_a_cache_that_cannot_be_written_is_an_error_of_the_system(videos, tmp_path):
    (tmp_path / "c").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        precompute(videos, tmp_path / "c", SMALL, processes=1, progress=False)


def test_the_command(videos, tmp_path, capsys):
    command = ["flow", str(videos), "--cache", str(tmp_path / "c"), "--processes", "1", "--short-side", "16"]
    assert main(command) == 0
    assert files_below(tmp_path / "c") == EXPECTED
    assert read_settings(tmp_path / "c" / "frames.mkv") == FlowSettings(short_side=16)
    capsys.readouterr()
    assert main([*command, "--bound", "7"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prernn: error:")
    assert error.count("\n") == 1
    assert main([*command, "--bound", "7", "--overwrite"]) == 0
    assert read_settings(tmp_path / "c" / "frames.mkv") == FlowSettings(short_side=16, bound=7)
    assert main(["flow", str(videos), "--cache", str(tmp_path / "d"), "--processes", "1", "--short-side", "0"]) == 0
    assert read_settings(tmp_path / "d" / "frames.mkv") == FlowSettings(short_side=None)


@pytest.mark.skipif(not (SHARED / "action-ucf101-layout").is_dir(), reason="the shared action clips are not here")
def test_real_footage_goes_through(tmp_path):
    source = SHARED / "action-ucf101-layout" / "UCF-101" / "Run" / "v_Run_g24_c01.avi"
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / source.name).symlink_to(source)
    made = FlowSettings(short_side=24)
    precompute(tmp_path / "v", tmp_path / "c", made, processes=1, progress=False)
    clip = read_flow_clip(tmp_path / "c" / (source.name + ".mkv"), ALL, settings=made)
    flow = FlowStack(made)
    assert np.array_equal(clip.permute(0, 2, 3, 1).numpy(), np.stack([flow(frame) for _, frame in read_frames(source)]))
    assert clip.float().std() > 3  # somebody runs
