"""The three applications as the PreRNN paper trains them: section 4, and section 1 of its supplement.

What both leave open, such as the number of frames of a clip and the batch size, is our choice; ``ours`` lists it.
"""

from dataclasses import replace
from typing import Any

from prernn.studies.papers.cells import Training

WEIGHTS = "IMAGENET1K_V1"
"""torchvision's name for weights as the papers had them: the second version was trained longer, in another way."""

FACE = Training(
    recipe={"backbone": "vgg16", "pretrained": WEIGHTS},
    task={
        "class_path": "prernn.tasks.Face",
        "init_args": {"sampling": {"frames": 16, "rule": "consecutive"}, "size": 224, "threshold": 0.08},
    },
    lr=1e-4,
    schedule={"kind": "step", "every": 5, "start": 10, "factor": 0.5},
    batch_size=4,
    epochs=30,
    data="300VW's folders",
    ours="frames of a clip, batch size, box margin, size of the augmentation, gradient clipping, traditional VRNNs' H",
)

FACE_FILTERED = replace(
    FACE,
    task={**FACE.task, "init_args": {**FACE.task["init_args"], "kalman": {"motion": 1.0, "noise": 0.01}}},
    ours=f"{FACE.ours}, the filter's model and settings",
)
"""Figure 3's Kalman filter, after the frame-wise network; training does not use it."""

FACE_ANSWERED = replace(
    FACE,
    # the frame-wise network with its 136 outputs, which stays unchanged
    recipe={"backbone": "vgg16", "weights": "runs/paper/table2/framewise", "backbone_options": {"num_classes": 136}},
    data="300VW's folders; first: prernn paper fit table2/framewise --data.root DATA",
    ours=f"{FACE.ours}, layers and units of the RNN, that the CNN is not trained with it",
    learning={"pretrained_lr": 0.0},
)
"""Figure 3's RNN as post-processing, on the points that were found frame by frame."""

C3D = "; first: C3D's weights from Sports-1M, in PyTorch's format, into weights/c3d.pickle (they are on no hub)"

GESTURE = Training(
    recipe={"backbone": "c3d", "weights": "weights/c3d.pickle", "backbone_options": {"frames": 8, "bgr": True}},
    task={"class_path": "prernn.tasks.Gesture", "init_args": {"modality": "depth", "snippet": 8}},
    lr=3e-3,
    schedule={"kind": "plateau", "every": 40, "factor": 0.1, "stop_at": 3e-7},
    batch_size=8,
    epochs=1000,  # ended by the learning rate
    data=f"NVGesture's folders and lists, depth{C3D}",
    ours="batch size, size of the augmentation (nothing is mirrored: swipes have a side), gradient clipping, "
    "H of traditional VRNNs",
)

GESTURES = {
    "depth": GESTURE,
    "color": replace(
        GESTURE,
        task={**GESTURE.task, "init_args": {**GESTURE.task["init_args"], "modality": "color"}},
        data=f"NVGesture's folders and lists, color{C3D}",
    ),
}
"""The two modalities of hand gestures: Table 4 is for depth, and Table 6 repeats its best figure."""


def _action(
    stream: str, lr: float, epochs: int, recipe: dict[str, Any], options: dict[str, Any], first: str = ""
) -> Training:
    clip = {"sampling": {"frames": 16, "rule": "random"}, "size": 224, "resize": 256}
    return Training(
        recipe={"backbone": "resnet50", "pretrained": WEIGHTS, **recipe},
        task={
            "class_path": "prernn.tasks.Action",
            "init_args": {"layout": "ucf101", "split": 1, "stream": stream, **options, **clip},
        },
        lr=lr,
        schedule={"kind": "step", "every": 10, "factor": 0.5},
        batch_size=8,
        epochs=epochs,
        data=f"UCF101's folders and lists{first}",
        ours="frames of a clip, batch size, size of the augmentation, gradient clipping, traditional VRNNs' H",
    )


ACTION = {
    "color": _action("color", 3e-4, 90, {}, {}),
    "flow": _action(
        "flow",
        1e-2,
        100,
        {"channels": 20},
        {"flow_cache": "flow/ucf101", "stack": 10},
        "; first: prernn flow DATA --cache flow/ucf101",
    ),
}
"""The two streams of action recognition, on UCF101's first split."""


def on_split(training: Training, split: int) -> Training:
    """The training of a stream on another of UCF101's three splits."""
    return replace(training, task={**training.task, "init_args": {**training.task["init_args"], "split": split}})
