"""Evaluation of faces: whole videos whose state and filters go on, a detector's boxes beside the true ones."""

import pytest
import torch

import prernn
from equations import close
from face_clips import chance, make_face, opened
from prernn.media.sampling import Sampling
from prernn.tasks import restore
from prernn.tasks.face.box import face_box, square, to_box
from prernn.tasks.face.detection import over_video
from prernn.tasks.face.detection.over_video import one_face
from prernn.tasks.face.kalman import Kalman
from prernn.tasks.face.landmarks import SIZES, normalized_errors
from prernn.tasks.face.metrics import FaceMetrics
from prernn.tasks.face.smoothing import Smoothing
from prernn.tasks.face.task import Face
from prernn.training.batches import PieceSampler, collate
from prernn.training.dataset import VideoDataset
from prernn.training.evaluation import evaluate, in_order, onward

FRAMES = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for name, frames in {"a": FRAMES, "b": 4, "c": 2}.items():
        make_face(root, name, frames)
    (root / "train.txt").write_text("c\n")
    (root / "test.txt").write_text("a\nb\n")
    return root


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=32)
    return prernn.convert(cnn, "fc6", cell="gru", outputs=136).eval()


def items_of(task):
    dataset = VideoDataset(task, task.records("test"))
    return [dataset[number] for number in range(len(dataset))]


def found(task, net):
    return evaluate(onward(net), task.metrics(), in_order(items_of(task), 2))


def task_of(root, frames, **options):
    return opened(root, sampling=Sampling(frames, "consecutive"), size=32, **options)


@pytest.mark.parametrize(
    "filters", [{}, {"smooth": Smoothing(1.0, 0.5)}, {"kalman": Kalman(1.0, 0.05)}], ids=["none", "one-euro", "kalman"]
)
def test_pieces_of_any_length_give_the_figures_and_points_of_whole_videos(root, net, filters):
    whole = found(task_of(root, FRAMES, **filters), net)
    for frames in (1, 3, 4):
        for name, value in found(task_of(root, frames, **filters), net).items():
            close(value, whole[name], atol=1e-5, rtol=1e-4, equal_nan=True)
    clips = found(task_of(root, 3, carry=False, **filters), net)
    assert abs(float(clips["nme"] - whole["nme"])) > 1e-6
    assert float(clips["tremble"]) != float(whole["tremble"])


def rows_of(task, net):
    """Predictions by video and frame."""
    outputs, rows = onward(net), {}
    with torch.inference_mode():
        for batch in in_order(items_of(task), 2):
            rows |= {(row["path"], row["frame"]): row for row in task.predictions(outputs(batch), batch)}
    return rows


def test_predictions_go_on_too(root, net):
    whole, pieces = (rows_of(task_of(root, n, smooth=Smoothing(0.5, 0.0)), net) for n in (FRAMES, 2))
    assert whole.keys() == pieces.keys()
    for place, row in whole.items():
        assert pieces[place]["x30"] == pytest.approx(row["x30"], abs=2e-3)


def test_which_clips_go_on(root):
    def going(**options):
        task = task_of(root, 3, **options)
        return [task.goes_on(record) for record in task.records("test")]

    assert going() == [False, True, True, False, True]
    assert going(carry=False) == going(box="first") == 5 * [False]
    assert [item["goes_on"] for item in items_of(task_of(root, 3))] == [0, 1, 1, 0, 1]
    task = task_of(root, 3)
    assert "goes_on" not in task.read(task.records("train")[0], chance())
    assert "goes_on" not in items_of(task_of(root, 3, every_frame=False))[0]


# ------------------------------------------------------------------------------------------------------- face sizes


def test_errors_can_be_divided_by_three_sizes(root):
    true = items_of(task_of(root, FRAMES))[0]["truth"].double()
    guess = true + torch.tensor([3.0, 4.0])
    x, y = true.unbind(-1)
    wanted = {
        "eyes": (true[:, 36] - true[:, 45]).norm(dim=-1),
        "pupils": (true[:, 36:42].mean(1) - true[:, 42:48].mean(1)).norm(dim=-1),
        "box": ((x.amax(1) - x.amin(1)) * (y.amax(1) - y.amin(1))).sqrt(),
    }
    assert set(wanted) == set(SIZES)
    for name, size in wanted.items():
        close(normalized_errors(guess, true, name), 5 / size)
    assert wanted["pupils"].lt(wanted["eyes"]).all()
    batch = collate([items_of(task_of(root, FRAMES))[0]])
    values = {}
    for name in SIZES:
        metrics = Face(normaliser=name).metrics()
        metrics.update(batch["points"] + 0.01, batch)
        values[name] = float(metrics.compute()["nme"])
    assert values["pupils"] > values["eyes"] > values["box"]
    assert restore(Face(normaliser="box").noted(prernn.conversion.recipe.Recipe())).normaliser == "box"


# -------------------------------------------------------------------------------------------------- detected boxes


def test_one_face_of_those_that_are_found():
    small, near, large = (0, 0, 4, 4), (11, 10, 31, 30), (10, 10, 30, 30)
    boxes, missed = one_face([[], [small, large], [], [near, small], [small]], 40, 60)
    assert boxes.tolist() == [list(map(float, box)) for box in (large, large, large, near, small)]
    assert missed.tolist() == [True, False, True, False, False]
    boxes, missed = one_face([[], []], 40, 60)
    assert boxes.tolist() == 2 * [[9.5, -0.5, 49.5, 39.5]]  # the middle square, edge to edge
    assert missed.all()


@pytest.fixture
def detected(monkeypatch):
    """A detector that is off by some pixels and misses every third frame."""
    looked = []

    def detector_from(name):
        assert name == "cascade"

        def detect(frame):
            looked.append(frame.shape)
            return [] if len(looked) % 3 == 0 else [(20.0, 10.0, 120.0, 110.0)]

        return detect

    monkeypatch.setattr(over_video, "detector_from", detector_from)
    return looked


def test_a_detectors_boxes_stand_beside_the_true_ones(root, net, detected):
    task = task_of(root, 3, detector="cascade")
    plain = found(task_of(root, 3), net)
    values = found(task, net)
    for name, value in plain.items():
        close(values[name], value, atol=1e-6, equal_nan=True)
    assert float(values["detected_nme"]) != float(values["nme"])
    assert float(values["detected_missed"]) == pytest.approx(3 / 11)
    assert len(detected) == 11  # each frame of the two videos once
    items = items_of(task)
    assert [item["way"] for item in items] == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    box = square(torch.tensor([20.0, 10.0, 120.0, 110.0]), task.margin)
    close(items[4]["boxes"], box.expand(3, 4))
    close(items[4]["points"].view(3, 68, 2), to_box(items[4]["truth"], items[4]["boxes"]), atol=1e-6)
    close(items[1]["boxes"], face_box(items[1]["truth"], task.margin), atol=1e-4)
    sizes = list(PieceSampler([task.goes_on(record) for record in task.records("test")], 4))
    assert max(map(len, sizes)) == 4  # a video beside itself in the other boxes
    rows = rows_of(task, net)
    assert len(rows) == 22
    assert sum("detected boxes" in path for path, _ in rows) == 11


def test_metrics_of_nothing_and_of_one_way(root, net, detected):
    metrics = Face(detector="cascade").metrics()
    metrics.update(torch.zeros(0, 0, 136), {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    items = items_of(task_of(root, 3, detector="cascade"))
    batch = collate([items[0], items[3]])
    metrics.update(batch["points"], batch)
    values = metrics.compute()
    assert float(values["nme"]) < 1e-6
    assert float(values["detected_nme"]) < 1e-6
    one = FaceMetrics()
    one.update(batch["points"][:1], collate([items[0]]))
    close(one.compute()["jitter"], values["jitter"])
    metrics.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert torch.isnan(metrics.compute()["nme"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"normaliser": "nose"}, "normaliser: expected one of eyes, pupils, box, got 'nose'"),
        ({"smooth": Smoothing(), "kalman": Kalman()}, "one filter, got both"),
    ],
)
def test_options_that_make_no_sense(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Face(**options)


def test_a_detector_is_for_boxes_that_follow():
    with pytest.raises(NotImplementedError, match="expected a detector with box annotation"):
        Face(detector="cascade", box="first")
