"""Writes the configurations of the papers' tables, one file a published cell: ``python configs/paper.py``.

Sources: Yang, Molchanov and Kautz, "Making Convolutional Networks Recurrent for Visual Sequence Learning" (CVPR 2018),
its supplement (learning rates, epochs, hidden sizes), the talk "PreRNN and BandRNN for Video Understanding", and the
supplement of Singh and Cuzzolin, "Recurrent Convolutions for Causal 3D CNNs" (clips, batches, augmentation). What they
leave open, such as the frames of a clip and the batch size, is our choice and marked so in each file.
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "paper"

GESTURE_WEIGHTS = "weights/c3d.pickle"
"""The C3D that was trained on Sports-1M, in PyTorch's format: to be had from its authors, not from a hub."""

# hidden sizes of traditional RNNs whose networks have as many weights as PreRNN's (`prernn.matched_hidden_size`):
# 1 layer as fc6, 2 layers as fc6 and fc7; those of 2 layers for faces are the ones of the supplement's Table 1
FACE_RNN = {"vrnn": {1: 2554, 2: 2740}, "lstm": {1: 7847, 2: 5761}, "gru": {1: 7403, 2: 5497}}
GESTURE_RNN = {"vrnn": {1: 2536, 2: 2732}, "lstm": {1: 4744, 2: 4240}, "gru": {1: 4535, 2: 4096}}
ACTION_RNN = {"vrnn": 1283, "lstm": 1435, "gru": 1418}

CELLS = ("vrnn", "lstm", "gru")

FACE = {
    "layers": ("classifier.0", "classifier.3"),
    "recipe": {"backbone": "vgg16", "pretrained": True},
    "lr": 1e-4,
    "schedule": {"kind": "step", "every": 5, "start": 10, "factor": 0.5},
    "task": {
        "class_path": "prernn.tasks.Face",
        "init_args": {"sampling": {"frames": 16, "rule": "consecutive"}, "size": 224, "threshold": 0.08},
    },
    "batch_size": 4,
    "epochs": 30,
    "data": "300VW's folders",
    "open": "frames of a clip, batch size, box margin, size of the augmentation, gradient clipping",
}
GESTURE = {
    "layers": ("fc6", "fc7"),
    "recipe": {"backbone": "c3d", "weights": GESTURE_WEIGHTS, "backbone_options": {"frames": 8, "bgr": True}},
    "lr": 3e-3,
    "schedule": {"kind": "plateau", "every": 40, "factor": 0.1, "stop_at": 3e-7},
    "task": {"class_path": "prernn.tasks.Gesture", "init_args": {"modality": "depth", "snippet": 8}},
    "batch_size": 8,
    "epochs": 1000,  # the learning rate ends it
    "data": "NVGesture's folders and lists; colour: --data.task.modality color",
    "open": "batch size, size of the augmentation (nothing is mirrored: swipes have a side), gradient clipping",
}


def _action(stream: str) -> dict[str, Any]:
    flow = stream == "flow"
    recipe: dict[str, Any] = {"backbone": "resnet50", "pretrained": True}
    task: dict[str, Any] = {"layout": "ucf101", "split": 1, "stream": stream}
    if flow:
        recipe |= {"channels": 20}
        task |= {"flow_cache": "flow/ucf101", "stack": 10}
    task |= {"sampling": {"frames": 16, "rule": "random"}, "size": 224, "resize": 256}
    return {
        "layers": ("layer4.2.conv3",),
        "recipe": recipe,
        "lr": 1e-2 if flow else 3e-4,
        "schedule": {"kind": "step", "every": 10, "factor": 0.5},
        "task": {"class_path": "prernn.tasks.Action", "init_args": task},
        "batch_size": 8,
        "epochs": 100 if flow else 90,
        "data": "UCF101's folders and lists" + ("; first: prernn flow DATA --cache flow/ucf101" if flow else ""),
        "open": "frames of a clip, batch size, size of the augmentation, gradient clipping",
    }


def config(application: dict[str, Any], recipe: dict[str, Any], run: str) -> dict[str, Any]:
    """A complete configuration."""
    rate = application["lr"]
    learning = {"lr": rate, "pretrained_lr": rate, "momentum": 0.9, "weight_decay": 5e-4}
    learning |= {key: application[key] for key in ("frozen_statistics",) if key in application}
    return {
        "seed_everything": 0,
        "model": {
            "recipe": {**application["recipe"], **recipe},
            "learning": {**learning, "schedule": application["schedule"]},
        },
        "data": {"task": application["task"], "batch_size": application["batch_size"], "num_workers": 4},
        "trainer": {
            "max_epochs": application["epochs"],
            "gradient_clip_val": 10.0,
            "default_root_dir": f"runs/paper/{run}",
        },
    }


def _pre(cell: str, layer, single: bool = False, **more) -> dict[str, Any]:
    input = "single" if single else "gate"
    return {"method": "prernn", "layer": layer, "cell": cell, "input": input, "hidden": "full", **more}


def _traditional(cell: str, size: int, layers: int = 1) -> dict[str, Any]:
    return {"method": "traditional", "cell": cell, "hidden_size": size, "num_layers": layers, "hidden": "full"}


def _fc_table(layers: tuple[str, str], sizes: dict[str, dict[int, int]]) -> dict[str, dict[str, Any]]:
    """The cells of Tables 2 and 4: traditional with 1 and 2 layers, PreRNN and PreRNN-SIH of fc6, fc7, both."""
    places = {"fc6": layers[0], "fc7": layers[1], "fc67": list(layers)}
    table = {f"tra{cell}-{n}": _traditional(cell, sizes[cell][n], n) for cell in CELLS for n in (1, 2)}
    table |= {f"pre{cell}-{name}": _pre(cell, layer) for cell in CELLS for name, layer in places.items()}
    return table | {
        f"pre{cell}-sih-{name}": _pre(cell, layer, True) for cell in CELLS[1:] for name, layer in places.items()
    }


def _rcn(frames: int, batch: int) -> dict[str, Any]:
    """The recipe of the RCN supplement, section 2, for clips of 8 or 16 frames."""
    task = {"layout": "folders", "sampling": {"frames": frames, "rule": "random"}, "size": 112, "resize": 128}
    task |= {"scale": [0.5, 1.0], "flip": True, "rotation": 10.0, "shear": 5.0}
    return {
        "recipe": {"backbone": "resnet18", "pretrained": True},
        "lr": 1e-2,
        "schedule": {"kind": "step", "every": 10, "factor": 0.1},
        "task": {"class_path": "prernn.tasks.Action", "init_args": task},
        "batch_size": batch,
        "epochs": 30,
        "frozen_statistics": False,
        "data": "Kinetics, one folder a class",
        "open": "learning rate and epochs, picture size, rotation and shear, gradient clipping",
    }


def _rcn_rows(frames: int) -> dict[str, dict[str, Any]]:
    """Table 1's four initialisations, and the networks that the supplement compares RCN with."""
    starts = {
        f"{spatial}-{hidden}": {"pretrained": spatial == "imagenet", "method": "rcn", "rcn": {"init": hidden}}
        for spatial in ("random", "imagenet")
        for hidden in ("random", "identity")
    }
    base = {"method": "rcn", "rcn": {"init": "identity"}}
    rows = {f"rcn18-{name}": row for name, row in starts.items()}
    rows |= {f"rcn18-{name}": {**base, "hidden": hidden} for name, hidden in SPARSE.items()}
    rows["rcn34"] = {**base, "backbone": "resnet34"}
    rows["i3d18"] = {"method": "framewise", "inflate": {"frames": frames, "init": "mean"}}
    clip = {"method": "framewise", "pretrained": False, "frames": frames}
    return rows | {name: {**clip, "backbone": name} for name in ("r3d_18", "r2plus1d_18", "mc3_18")}


SPARSE = {"band5percent": "band:5%", "diagonal": "diagonal"}


def tables() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """``{table/cell: (what it is, application, recipe)}``."""
    found: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}

    def add(table: str, words: str, application: dict[str, Any], cells: dict[str, dict[str, Any]]) -> None:
        found.update({f"{table}/{name}": (words, application, recipe) for name, recipe in cells.items()})

    add("table2", "PreRNN, Table 2 (face alignment)", FACE, _fc_table(FACE["layers"], FACE_RNN))
    sizes = {f"tra{c}-{n}": _traditional(c, n, 2) for c in CELLS for n in (256, 512, 1024, 2048, 4096)}
    add("supplement1", "PreRNN supplement, Table 1 (hidden sizes)", FACE, sizes)
    deep = {f"pre{c}-fc67-random": _pre(c, list(FACE["layers"]), layers_on_top=1) for c in CELLS}
    add("supplement2", "PreRNN supplement, Table 2 (a random layer on top)", FACE, deep)
    add("table4", "PreRNN, Table 4 (hand gestures)", GESTURE, _fc_table(GESTURE["layers"], GESTURE_RNN))
    add("table6", "PreRNN, Table 6 (hand gestures, baseline)", GESTURE, {"framewise": {"method": "framewise"}})
    for stream in ("color", "flow"):
        action = _action(stream)
        (layer,) = action["layers"]
        kinds = {f"pre{c}": _pre(c, layer) for c in CELLS}
        kinds |= {f"pre{c}-sih": _pre(c, layer, True) for c in CELLS[1:]}
        rows = {f"tra{c}": _traditional(c, ACTION_RNN[c]) for c in CELLS} | kinds
        add("table5", "PreRNN, Table 5 (action recognition)", action, {f"{k}-{stream}": v for k, v in rows.items()})
        base = {f"framewise-{stream}": {"method": "framewise"}}
        add("table7", "PreRNN, Table 7 (action recognition, baseline)", action, base)
        random = {f"{k}-{stream}": {**v, "pretrained_layer": False} for k, v in kinds.items()}
        add("supplement3", "PreRNN supplement, Table 3 (layer drawn anew)", action, random)
        band = {
            f"{k}-{hidden.replace(':', '')}-{stream}": {**v, "hidden": hidden}
            for k, v in kinds.items()
            for hidden in ("diagonal", "band:21", "band:101", "band:201")
        }
        add("bandrnn", "PreRNN and BandRNN talk (band 1 %, 5 %, 10 % of 2048)", action, band)
    for frames, batch in ((8, 64), (16, 32)):
        rows = {f"{name}-{frames}": row for name, row in _rcn_rows(frames).items()}
        add("rcn", "RCN supplement, Table 1 and section 2", _rcn(frames, batch), rows)
    return found


def text(name: str) -> str:
    """The file of a cell."""
    words, application, recipe = tables()[name]
    head = f"# {words}, cell {name.partition('/')[2]}. Data: {application['data']}.\n"
    head += f"#   prernn fit --config configs/paper/{name}.yaml --data.root DATA\n"
    head += f"# Our choice, for the papers don't say: {application['open']}.\n"
    return head + yaml.safe_dump(config(application, recipe, name), sort_keys=False, default_flow_style=None, width=100)


if __name__ == "__main__":
    for cell in tables():
        path = FOLDER / f"{cell}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(cell), encoding="utf-8")
    print(f"{len(tables())} files in {FOLDER}")
