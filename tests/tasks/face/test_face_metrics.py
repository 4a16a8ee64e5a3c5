"""Loss and metrics of face alignment, and what is reported."""

import csv
import math

import numpy as np
import pytest
import torch

from equations import close
from face_clips import chance
from prernn.tasks.face.box import face_box, from_box, to_box
from prernn.tasks.face.errors import landmark_loss, plot_errors
from prernn.tasks.face.landmarks import auc, jitter, normalized_errors
from prernn.tasks.face.metrics import FaceMetrics
from prernn.tasks.face.task import Face

# ------------------------------------------------------------------------------------------------- loss and metrics


def batch_of(lengths, seed=0, steps=None):
    """Outputs and a batch as `collate` makes it, with rubbish in the padding."""
    steps = steps or max(lengths)
    truth = torch.randn(len(lengths), steps, 68, 2, generator=chance(seed)) * 30 + 100
    boxes = face_box(truth, 0.2)
    points = to_box(truth, boxes).flatten(2)
    out = points + 0.02 * torch.randn(points.shape, generator=chance(seed + 1))
    for b, n in enumerate(lengths):
        out[b, n:] = math.nan
        for value in (truth, boxes, points):
            value[b, n:] = 0
    frame = torch.arange(1, steps + 1).expand(len(lengths), -1)
    names = {"truth": truth, "boxes": boxes, "points": points, "frame": frame}
    return out, {**names, "lengths": torch.tensor(lengths), "path": [f"{b}/vid.avi" for b in range(len(lengths))]}


def test_loss_is_half_the_squared_distance():
    out, batch = batch_of([3, 1, 4])
    clips = []
    for b, n in enumerate([3, 1, 4]):
        frames = [sum(float(d) ** 2 for d in out[b, t] - batch["points"][b, t]) / 2 for t in range(n)]
        clips.append(sum(frames) / n)
    assert float(Face().loss(out, batch)) == pytest.approx(sum(clips) / 3, rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient():
    out, batch = batch_of([3, 1], steps=6)
    out.requires_grad_()
    landmark_loss(out, batch["points"], batch["lengths"]).backward()
    assert bool(out.grad.isfinite().all())
    close(out.grad[1, 1:], torch.zeros(5, 136))
    close(out.grad[1, 0], (out[1, 0] - batch["points"][1, 0]).detach() / 2, atol=1e-7)


def test_motion_weight_adds_the_loss_of_motion_alone():
    out, batch = batch_of([3, 1, 4])
    error = (out - batch["points"])[2]  # the clip of four frames
    steps = [float((error[t] - error[t - 1]).square().sum()) / 2 for t in range(1, 4)]
    first = float((out - batch["points"])[0, :3].diff(dim=0).square().sum()) / 2
    more = float(Face(motion_weight=5.0).loss(out, batch)) - float(Face().loss(out, batch))
    assert more == pytest.approx(5 * (sum(steps) / 4 + first / 3) / 3, rel=1e-4)
    offset = batch["points"] + torch.randn(136, generator=chance())  # wrong by the same all the time
    assert float(Face(motion_weight=5.0).loss(offset, batch)) == pytest.approx(float(Face().loss(offset, batch)))
    cut = torch.zeros(out.shape[:2], dtype=torch.bool)
    cut[:, 1:] = True  # every frame is of another face
    still = float(Face(motion_weight=5.0).loss(out, {**batch, "begins": cut}))
    assert still == pytest.approx(float(Face().loss(out, batch)))
    with pytest.raises(ValueError, match="motion_weight"):
        Face(motion_weight=-1.0)


def test_tremble_is_apart_for_still_and_moving_faces():
    truth = torch.randn(1, 1, 68, 2, generator=chance()) * 30 + 100
    truth = truth.repeat(1, 10, 1, 1)
    truth[:, 5:] += 9 * torch.arange(1, 6)[:, None, None]  # still, then even motion
    boxes = face_box(truth, 0.2)
    batch = {"truth": truth, "boxes": boxes, "points": to_box(truth, boxes).flatten(2), "lengths": torch.tensor([10])}
    metrics = FaceMetrics()
    metrics.update(batch["points"], batch)
    values = metrics.compute()
    assert float(values["tremble_still"]) < 1e-5 < float(values["tremble_moving"])
    close(values["tremble"], values["true_tremble"], atol=1e-6)
    unit = float(torch.linalg.vector_norm(truth[0, 0, 36] - truth[0, 0, 45]))
    jolt = 9 * 2**0.5 / unit  # where it sets off, one of eight steps
    assert float(values["true_tremble"]) == pytest.approx(jolt / 8, rel=1e-4)


def test_loss_of_nothing_and_of_other_shapes():
    out, batch = batch_of([3])
    empty = torch.zeros(0, 0, 136, requires_grad=True)
    loss = Face().loss(empty, {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    loss.backward()
    assert float(loss.detach()) == 0
    with pytest.raises(ValueError, match=r"\(B, T, K\)"):
        landmark_loss(out[..., :134], batch["points"], batch["lengths"])
    with pytest.raises(ValueError, match="lengths"):
        landmark_loss(out, batch["points"], torch.tensor([4]))


def test_metrics_are_those_of_all_frames():
    parts = [batch_of([3, 1, 4], seed=0), batch_of([2], seed=5), batch_of([5, 2], seed=9, steps=7)]
    metric = Face(threshold=0.13).metrics()
    errors, motions, distances = [], [], []
    for out, batch in parts:
        metric.update(out, batch)
        for b, n in enumerate(batch["lengths"].tolist()):
            pixels = from_box(out[b, :n].view(n, 68, 2), batch["boxes"][b, :n])
            errors += normalized_errors(pixels, batch["truth"][b, :n]).tolist()
            motions += [float(jitter(pixels[t : t + 2], batch["truth"][b, t : t + 2])) for t in range(n - 1)]
            distances += [math.dist(out[b, t].tolist(), batch["points"][b, t].tolist()) for t in range(n)]
    values = metric.compute()
    assert len(errors) == 17
    assert len(motions) == 11
    assert 0 < sum(e > 0.13 for e in errors) < 17  # the threshold matters
    assert float(values["nme"]) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(values["jitter"]) == pytest.approx(np.mean(motions), rel=1e-5)
    assert float(values["distance"]) == pytest.approx(np.mean(distances), rel=1e-5)
    assert float(values["failure_rate"]) == pytest.approx(np.mean([e > 0.13 for e in errors]))
    assert float(values["auc"]) == pytest.approx(float(auc(torch.tensor(errors), 0.13)), rel=1e-5)
    assert values["errors"].tolist() == pytest.approx(sorted(errors), rel=1e-5)
    assert {key for key, value in values.items() if value.ndim == 0} == set(values) - {"errors"}


def test_metrics_add_up_over_processes():
    (a, one), (b, two) = batch_of([3, 1]), batch_of([2, 4], seed=3)
    whole, first, second = (FaceMetrics() for _ in range(3))
    whole.update(a, one)
    whole.update(b, two)
    first.update(a, one)
    second.update(b, two)
    if not hasattr(first, "merge_state"):
        pytest.skip("expected a torchmetrics that adds up states without processes")
    first.merge_state(second)
    for key, value in whole.compute().items():
        close(first.compute()[key], value, atol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_without_frames_and_with_nan():
    metric = FaceMetrics()
    metric.update(torch.zeros(0, 0, 136), {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    values = metric.compute()
    assert all(math.isnan(values[key]) for key in ("nme", "auc", "failure_rate", "jitter", "distance"))
    assert values["errors"].tolist() == []
    metric.reset()
    out, batch = batch_of([2])
    out[0, 1] = math.nan
    metric.update(out, batch)
    values = metric.compute()
    assert float(values["failure_rate"]) >= 0.5
    assert 0 <= float(values["auc"]) <= 0.5
    assert math.isnan(values["nme"])


def test_perfect_outputs_score_one():
    _, batch = batch_of([4, 3])
    metric = FaceMetrics()
    metric.update(batch["points"], batch)
    values = metric.compute()
    assert float(values["auc"]) == pytest.approx(1, abs=1e-4)
    assert float(values["jitter"]) < 1e-4
    assert float(values["failure_rate"]) == float(values["distance"]) == 0


# ---------------------------------------------------------------------------------------------------------- reports


def test_predictions_are_rows_of_frames():
    out, batch = batch_of([2, 1], steps=3)
    rows = Face().predictions(out, batch)
    assert [(row["path"], row["frame"]) for row in rows] == [("0/vid.avi", 1), ("0/vid.avi", 2), ("1/vid.avi", 1)]
    pixels = from_box(out[0, 1].view(68, 2), batch["boxes"][0, 1])
    assert rows[1]["nme"] == pytest.approx(float(normalized_errors(pixels, batch["truth"][0, 1])), abs=1e-5)
    assert rows[1]["x67"] == pytest.approx(float(pixels[67, 0]), abs=1e-3)
    assert rows[1]["y5"] == pytest.approx(float(pixels[5, 1]), abs=1e-3)
    assert list(rows[0])[:5] == ["path", "frame", "nme", "x0", "y0"]
    assert len(rows[0]) == 3 + 136


def test_report_writes_the_curve(tmp_path):
    results = {"auc": 0.5, "errors": [0.02, 0.04, 0.5, math.nan]}
    assert Face().report(results, tmp_path) == {"auc": 0.5, "threshold": 0.08, "normaliser": "eyes"}
    assert (tmp_path / "ced.png").read_bytes()[1:4] == b"PNG"
    with open(tmp_path / "ced.csv") as file:
        rows = {float(row["error"]): float(row["share"]) for row in csv.DictReader(file)}
    assert len(rows) == 101
    assert (rows[0.0], rows[0.0208], rows[0.08]) == (0, 0.25, 0.5)


def test_curves_of_several_networks(tmp_path):
    plot_errors({"PreGRU": [0.01, 0.02], "TraGRU": [0.05, 0.1]}, tmp_path / "ced.png", 0.1)
    assert (tmp_path / "ced.png").stat().st_size > 5000
