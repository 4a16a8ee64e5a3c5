"""Work over a Ray cluster of two local workers: the rows of one process, whatever becomes of a worker."""

import os
import signal
import sys
from pathlib import Path

import pytest

from equations import close
from flow_videos import ALL, moving
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.media.flow_cache import read_flow_clip, read_settings
from prernn.studies.runs.over_ray import over_ray
from small_runs import config, render_parts, write

ray = pytest.importorskip("ray")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which workers do not have
pytestmark = pytest.mark.slow  # a cluster takes its time to start


def squares(marker):
    """Squares; the process that is to do the job 5 is killed, the first time."""

    def square(job):
        if job == 5 and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job < 0:
            raise ValueError(f"expected a job from 0 on, got {job}")
        return job * job

    return square


def test_a_worker_that_is_killed_loses_nothing(tmp_path):
    marker = tmp_path / "killed"
    found = list(over_ray(squares, (str(marker),), range(12), "local", 2))
    assert marker.exists()
    assert sorted(found) == [n * n for n in range(12)]


def test_a_mistake_is_a_value_error_here():
    with pytest.raises(ValueError, match="expected a job from 0 on, got -1"):
        list(over_ray(squares, ("/dev/null",), [1, -1], "local", 2))


def test_predictions_are_those_of_one_process(tmp_path):
    videos = render_parts(tmp_path / "videos", {"train": 3, "test": 4})
    run = tmp_path / "run"
    assert main(["fit", "--config", write(tmp_path / "config.yaml", config(videos, run, max_epochs=1))]) == 0
    assert main(["predict", str(run)]) == 0
    alone = (run / "predictions.csv").read_text()
    (run / "predictions.csv").unlink()
    assert main(["predict", str(run), "--ray", "local", "--workers", "2"]) == 0
    there = (run / "predictions.csv").read_text()
    assert [row.split(",")[:2] for row in there.splitlines()] == [row.split(",")[:2] for row in alone.splitlines()]
    assert len(there.splitlines()) == 9
    numbers = [
        [float(cell) for row in text.splitlines()[1:] for cell in row.split(",")[2:] if _is_number(cell)]
        for text in (alone, there)
    ]
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-4)


def _is_number(cell):
    return cell.replace(".", "").replace("e-", "").isdigit()


def test_flow_is_that_of_one_process(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", list(moving(5, number)), fps=5)
    for cache, options in {"alone": ["--processes", "1"], "ray": ["--ray", "local", "--processes", "2"]}.items():
        assert main(["flow", str(tmp_path / "videos"), "--cache", str(tmp_path / cache), *options]) == 0
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert len(names) == 3
    for name in names:
        # not their bytes: Matroska gives each file a number of its own, drawn anew
        own, there = (read_flow_clip(tmp_path / cache / name, ALL, stack=1) for cache in ("alone", "ray"))
        close(there, own)
        assert read_settings(tmp_path / "ray" / name) == read_settings(tmp_path / "alone" / name)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_no_cluster_is_one_line(address, tmp_path, capsys):
    (tmp_path / "0.mp4").write_bytes(b"x")
    assert main(["flow", str(tmp_path), "--cache", str(tmp_path / "cache"), "--ray", address]) == 2
    error = capsys.readouterr().err
    assert f"--ray {address}: expected the address of a Ray cluster" in error
    assert len(error.splitlines()) == 1
