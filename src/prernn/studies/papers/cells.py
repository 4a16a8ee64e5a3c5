"""A cell of a published table: a network, its training, and the figures that the paper reports for it."""

import copy
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Training:
    """What the cells of one application share: data, backbone and training.

    Attributes:
        recipe: the backbone's part of the network's recipe.
        task: the application's options, as ``class_path`` and ``init_args``.
        lr: learning rate, for both pre-trained and new weights.
        schedule: of the learning rate.
        batch_size: videos in a batch.
        epochs: number of epochs.
        data: the data and its form, in words.
        ours: what the papers leave open and we chose, in words.
        learning: further options of learning, such as ``{"frozen_statistics": False}``.
    """

    recipe: dict[str, Any]
    task: dict[str, Any]
    lr: float
    schedule: dict[str, Any]
    batch_size: int
    epochs: int
    data: str
    ours: str
    learning: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One network of a published table.

    Attributes:
        name: table and cell, such as "table4/pregru-fc6".
        title: paper, table and application.
        training: what it shares with the other cells.
        recipe: how its backbone becomes recurrent: options of `prernn.models.from_config.NetworkSpec`.
        published: the paper's figures by metric, such as ``{"accuracy": "82.1 %"}``; empty if it reports none.
    """

    name: str
    title: str
    training: Training
    recipe: dict[str, Any]
    published: dict[str, str] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """The table that it belongs to, such as "table4"."""
        return self.name.partition("/")[0]

    def config(self) -> dict[str, Any]:
        """The whole configuration of ``prernn fit`` except the folder of the data."""
        training = self.training
        values = {
            "seed_everything": 0,
            "model": {
                "recipe": {"calibrate": False, **training.recipe, **self.recipe},
                "learning": {
                    "lr": training.lr,
                    "pretrained_lr": training.lr,
                    "momentum": 0.9,
                    "weight_decay": 5e-4,
                    "continuity": {"clips": 1, "carry": False, "onset": 0.0},
                    "sparse_power": 0.0,
                    "first": {"epochs": 0},
                    **training.learning,
                    "schedule": training.schedule,
                },
            },
            # the whole list is trained on, as in the papers, and the last epoch counts
            "data": {"task": training.task, "batch_size": training.batch_size, "num_workers": 4, "holdout": 0},
            "trainer": {
                "max_epochs": training.epochs,
                "gradient_clip_val": 10.0,
                "default_root_dir": f"runs/paper/{self.name}",
            },
        }
        return copy.deepcopy(values)

    def text(self) -> str:
        """The configuration as YAML, headed by what it is, what the paper reports and what we chose."""
        import yaml

        figures = ", ".join(f"{metric} {figure}" for metric, figure in self.published.items())
        head = [
            f"{self.title}, cell {self.name.partition('/')[2]}. Data: {self.training.data}.",
            f"  prernn paper fit {self.name} --data.root DATA",
            f"Published: {figures or 'no figure'}.",
            f"Our choice, as the papers don't say: {self.training.ours}.",
        ]
        body = yaml.safe_dump(self.config(), sort_keys=False, default_flow_style=None, width=100)
        return "".join(f"# {line}\n" for line in head) + body


def prernn(cell: str, layer: str | list[str], *, single: bool = False, **more: Any) -> dict[str, Any]:
    """The recipe of PreRNN, or with ``single`` of PreRNN-SIH: the layer or layers become recurrent."""
    input = "single" if single else "gate"
    return {"method": "prernn", "layer": layer, "cell": cell, "input": input, "hidden": "full", **more}


def traditional(cell: str, size: int, layers: int = 1, **more: Any) -> dict[str, Any]:
    """The recipe of a traditional RNN with this many hidden units, on top of the CNN's last layer."""
    recipe = {"method": "traditional", "cell": cell, "hidden_size": size, "num_layers": layers, "hidden": "full"}
    return recipe | more


def nonlinearities(cell: str) -> dict[str, dict[str, Any]]:
    """What is added to the name and to the recipe of a traditional RNN; a VRNN has two variants.

    Eq. 1 leaves its H open, and so does the paper for TraVRNN. PreVRNN has the CNN's ReLU; tanh is the common choice.
    Both rows show the paper's figure.
    """
    return {"": {}, "-relu": {"activation": "relu"}} if cell == "vrnn" else {"": {}}
