"""Trainings of seconds: two classes of small videos, and a configuration for them."""

import numpy as np
import yaml

from prernn.media.encoding import write_video

TINY = "timm/test_resnet"
CLASSES = ("brighter", "darker")


def render(folder, label, number):
    rng = np.random.default_rng([label, number])
    steps = np.linspace(40, 200, 6) if label == 0 else np.linspace(200, 40, 6)
    noise = rng.integers(0, 40, (32, 32, 3))
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{number}.mp4", [(step + noise).astype(np.uint8) for step in steps], 6)


def render_parts(root, counts, other_test=0):
    """So many videos of each class for each part; the numbers of test videos start at ``other_test``."""
    for part, count in counts.items():
        for label, name in enumerate(CLASSES):
            for number in range(count):
                render(root / part / name, label, number + (other_test if part == "test" else 0))
    return root


def config(videos, root, **trainer):
    recipe = {"backbone": TINY, "cell": "gru", "input": "single", "hidden": "band:3"}
    learning = {"lr": 0.05, "pretrained_lr": 0.01}
    options = {"sampling": {"frames": 4, "rule": "random"}, "size": 32}
    task = {"class_path": "prernn.tasks.Action", "init_args": options}
    return {
        "seed_everything": 3,
        "model": {"recipe": recipe, "learning": learning},
        "data": {"root": str(videos), "task": task, "batch_size": 4, "num_workers": 0, "holdout": 0},
        "trainer": {
            "max_epochs": 2,
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **trainer,
        },
    }


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return str(path)
