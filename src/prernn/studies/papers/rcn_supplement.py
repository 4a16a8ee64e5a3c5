"""Table 1 and section 2 of the supplement of Singh and Cuzzolin, "Recurrent Convolutions for Causal 3D CNNs": RCN's
four initializations, and the networks that RCN is compared with, for clips of 8 and of 16 frames.
"""

from collections.abc import Iterator
from typing import Any

from prernn.studies.papers.cells import Cell, Training
from prernn.studies.papers.trainings import WEIGHTS

BATCH = {8: 64, 16: 32}
"""Batch size for clips of this many frames (section 2)."""

TABLE1 = {  # accuracy on Kinetics with clips of 8 frames, %, "using our older training setup"
    # W_xh, W_hh          clip  video
    "random-random": (49.0, 61.2),
    "random-identity": (49.3, 61.8),
    "imagenet-random": (50.4, 62.5),
    "imagenet-identity": (53.0, 65.1),
}

VIEWS = 10
"""Clips of a video whose scores the video accuracy averages, as in Tran et al. (CVPR 2018), to whom it compares."""

SPARSE = {"band5percent": "band:5%", "diagonal": "diagonal"}
"""Structures that we have added."""


def _training(frames: int) -> Training:
    augmentation = {"scale": [0.5, 1.0], "flip": True, "rotation": 10.0, "shear": 5.0}
    sampling = {"frames": frames, "rule": "consecutive"}  # temporal jittering: training draws where it starts
    return Training(
        recipe={"backbone": "resnet18", "pretrained": WEIGHTS},
        task={
            "class_path": "prernn.tasks.Action",
            "init_args": {"layout": "folders", "sampling": sampling, "size": 112, "resize": 128, **augmentation}
            | {"views": VIEWS},
        },
        lr=1e-2,
        schedule={"kind": "step", "every": 10, "factor": 0.1},
        batch_size=BATCH[frames],
        epochs=30,
        data="Kinetics, one folder per class",
        ours="learning rate and epochs, picture size, rotation and shear, gradient clipping, clips per video",
        learning={"frozen_statistics": False},
    )


def _networks(frames: int) -> dict[str, dict[str, Any]]:
    starts = {}
    for name in TABLE1:
        spatial, hidden = name.split("-")
        weights = WEIGHTS if spatial == "imagenet" else False
        starts[f"rcn18-{name}"] = {"pretrained": weights, "method": "rcn", "rcn": {"init": hidden}}
    identity = {"method": "rcn", "rcn": {"init": "identity"}}
    clip = {"method": "framewise", "pretrained": False, "frames": frames}
    return {
        **starts,
        **{f"rcn18-{name}": {**identity, "hidden": hidden} for name, hidden in SPARSE.items()},
        "rcn34": {**identity, "backbone": "resnet34"},
        "i3d18": {"method": "framewise", "inflate": {"frames": frames, "init": "mean"}},
        "i3d18-random": {"method": "framewise", "pretrained": False, "inflate": {"frames": frames, "init": "random"}},
        **{name: {**clip, "backbone": name} for name in ("r3d_18", "r2plus1d_18", "mc3_18")},
    }


def _published(name: str, frames: int) -> dict[str, str]:
    figures = TABLE1.get(name.removeprefix("rcn18-"))
    if figures is None or frames != 8:
        return {}
    return {"clip accuracy": f"{figures[0]:.1f} %", "video accuracy": f"{figures[1]:.1f} %"}


def _cells() -> Iterator[Cell]:
    for frames in BATCH:
        training = _training(frames)
        for name, recipe in _networks(frames).items():
            title = "RCN supplement, Table 1 and section 2"
            yield Cell(f"rcn/{name}-{frames}", title, training, recipe, _published(name, frames))


RCN_SUPPLEMENT = list(_cells())
