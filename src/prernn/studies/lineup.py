"""Which networks a comparison holds side by side: the rows of its table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters, total_weights
from prernn.models.backbones import backbone
from prernn.models.from_config import NetworkSpec
from prernn.studies.frozen_trunk import SINGLE_CLIPS
from prernn.tasks.task import Task
from prernn.training.continuity import Continuity

LINEUPS = ("prernn", "rcn")

CELLS: tuple[Literal["gru", "lstm"], ...] = ("gru", "lstm")

RCN_STARTS: dict[str, dict[str, Any]] = {
    "random, random": {"pretrained": False, "init": "random"},
    "random, identity": {"pretrained": False, "init": "identity"},
    "pre-trained, random": {"init": "random"},
    "pre-trained, identity": {"init": "identity"},
}
"""How spatial weights and ``W_hh`` start: the four cells of the RCN supplement's Table 1."""


@dataclass
class Row:
    """A network of the table.

    Attributes:
        weights: that recurrence introduces.
        total: all weights of the network.
        rate: learning rate that the search found.
        search: score of each rate on held-out videos.
        finals: results of the final trainings, one a seed.
    """

    name: str
    spec: NetworkSpec
    weights: int = 0
    total: int = 0
    rate: float = math.nan
    search: dict[float, float] = field(default_factory=dict)
    finals: list[dict[str, Any]] = field(default_factory=list)


def prernn_rows(spec: NetworkSpec, task: Task) -> list[Row]:
    """Frame-wise, traditional with as many weights as PreRNN, PreRNN and PreRNN-SIH, the last two GRU and LSTM."""
    cnn = backbone(spec.backbone, device="meta", **spec.backbone_options)
    rows = [("frame-wise CNN", replace(spec, method="framewise"))]
    for cell in CELLS:
        size = matched_hidden_size(cnn, spec.layer, cell=cell, outputs=task.outputs)
        stacked = replace(spec, method="traditional", cell=cell, hidden_size=size, hidden="full")
        rows.append((f"traditional {cell.upper()}, {size} units", stacked))
    for cell in CELLS:
        base = replace(spec, method="prernn", cell=cell, hidden="full")
        rows.append((f"Pre{cell.upper()}", replace(base, input="gate")))
        rows.append((f"Pre{cell.upper()}-SIH", replace(base, input="single")))
    return [_counted(name, each, task) for name, each in rows]


def sparse_row(best: Row, hidden: str, task: Task) -> Row:
    """The network of ``best`` with another structure of ``W_hh``."""
    return _counted(f"{best.name}, {hidden}", replace(best.spec, hidden=hidden), task)


def rcn_rows(spec: NetworkSpec, task: Task, structures: Sequence[str], also: Sequence[str] = ()) -> list[Row]:
    """Frame-wise, RCN from each of `RCN_STARTS`, sparse RCN from the last, inflated, and other clip networks.

    Args:
        spec: the 2-D backbone and its weights.
        task: with ``clip_length``, the frames of a clip.
        structures: of ``W_hh``.
        also: backbones for whole clips, with random weights.
    """
    frames = task.clip_length or 16
    plain = replace(spec, method="framewise", layer=None, rcn={}, rcn_below=False, inflate=None)
    kept = {key: value for key, value in spec.rcn.items() if key not in ("init", "pretrained", "hidden")}
    base = replace(plain, method="rcn", layer=spec.layer, hidden="full")
    rows = [("frame-wise CNN", plain)]
    rows += [(f"RCN, {name}", replace(base, rcn={**kept, **options})) for name, options in RCN_STARTS.items()]
    identity = replace(base, rcn={**kept, "init": "identity"})
    rows += [(f"RCN, pre-trained, identity, {hidden}", replace(identity, hidden=hidden)) for hidden in structures]
    rows.append(("inflated to 3-D", replace(plain, inflate={"frames": frames, "init": "mean"})))
    clips = NetworkSpec(method="framewise", channels=spec.channels, frames=frames)
    rows += [(f"{name}, random", replace(clips, backbone=name)) for name in also]
    return [_counted(name, each, task) for name, each in rows]


def _counted(name: str, spec: NetworkSpec, task: Task) -> Row:
    net = spec.build(task.outputs)
    return Row(name, spec, recurrent_parameters(net).introduced, total_weights(net))


@dataclass(frozen=True)
class Budget:
    """What every network gets.

    Attributes:
        epochs: over the training videos.
        batch_size: videos.
        rates: learning rates that the search tries, the same for the new and the pre-trained part.
        seeds: of the final trainings.
        passes: times that the trunk runs over the training videos, each with other crops; epoch n takes pass
            n mod passes.
        held_out: share of the training videos that the search is judged by.
        clip: gradient norm at most.
        continuity: how states go on from clip to clip in training; networks of whole clips have none.
    """

    epochs: int = 20
    batch_size: int = 16
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2)
    passes: int = 4
    held_out: float = 0.25
    clip: float = 1.0
    continuity: Continuity = SINGLE_CLIPS
