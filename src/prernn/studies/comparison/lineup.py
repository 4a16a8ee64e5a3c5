"""The networks that a comparison puts side by side: the rows of its table."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters, total_weights
from prernn.layers.arguments import real, whole
from prernn.layers.dropout import Dropout
from prernn.layers.starts import LASTING
from prernn.models.backbones import backbone
from prernn.models.from_config import NetworkSpec
from prernn.tasks.task import Task
from prernn.training.continuity import SINGLE_CLIPS, Continuity
from prernn.training.learning import SPARSE_POWER

LINEUPS = ("prernn", "supplement", "rcn", "continuity", "starts")

CELLS = ("gru", "lstm")

WAYS: dict[str, Continuity] = {
    "single clips": SINGLE_CLIPS,
    "single clips, second half": Continuity(clips=1, carry=False, onset=0.5),
    "three joined": Continuity(clips=3, carry=False),
    "rows of one": Continuity(clips=1, carry=True),
    "rows of two": Continuity(clips=2, carry=True),
    "rows of three": Continuity(clips=3, carry=True),
    "rows of two, loss on all frames": Continuity(clips=2, carry=True, onset=0.0),
    "rows of two, loss rises": Continuity(clips=2, carry=True, onset="linear"),
    "rows of two, warm-up": Continuity(clips=2, carry=True, warm_up=True),
    "rows of two, cut 0.4": Continuity(clips=2, carry=True, cut=0.4),
    "rows of two, reset 0.3": Continuity(clips=2, carry=True, reset=0.3),
    "rows of two, noise 0.1": Continuity(clips=2, carry=True, noise=0.1),
    "rows of two, dropout 0.1": Continuity(clips=2, carry=True, dropout=0.1),
}
"""Ways to carry states over in training."""

SHARES_OF_SIZE = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Hidden sizes of traditional RNNs as fractions of PreRNN's: 256 to 4096 of 4096 in the supplement's Table 1."""

GAINS: tuple[float | Literal["lasting"], ...] = (1.0, 2.0, LASTING, 5.0)
"""Scales at which ``W_hh`` starts."""

RCN_STARTS: dict[str, dict[str, Any]] = {
    "random, random": {"pretrained": False, "init": "random"},
    "random, identity": {"pretrained": False, "init": "identity"},
    "pre-trained, random": {"init": "random"},
    "pre-trained, identity": {"init": "identity"},
}
"""How spatial weights and ``W_hh`` are initialized: the four cells of the RCN supplement's Table 1."""


SEARCH_SEED = 100
"""Seed of a search's first training of each rate, different from those of final trainings; others count up from it."""


@dataclass
class Row:
    """A network of the table.

    Attributes:
        continuity: how its states carry over in training; None is the budget's.
        few: training videos of each class; None is the budget's.
        epochs: number of epochs; None is the budget's.
        weights: number of weights that recurrence introduces.
        total: number of all weights of the network.
        rate: learning rate found by the search.
        pretrained: share of it for the pre-trained part, also found by the search.
        search: score of each rate, and share, on held-out videos.
        finals: results of the final trainings, one per seed.
    """

    name: str
    spec: NetworkSpec
    continuity: Continuity | None = None
    few: int | None = None
    epochs: int | None = None
    weights: int = 0
    total: int = 0
    rate: float = math.nan
    pretrained: float = 1.0
    search: dict[tuple[float, float], float] = field(default_factory=dict)
    finals: list[dict[str, Any]] = field(default_factory=list)


def prernn_rows(spec: NetworkSpec, task: Task, cells: Sequence[str] = CELLS) -> list[Row]:
    """Frame-wise, and for each cell traditional with as many weights as PreRNN, PreRNN and PreRNN-SIH.

    The traditional VRNN is included twice, with tanh and with the ReLU that PreVRNN has from most CNNs; PreVRNN once,
    because with one gate PreRNN-SIH is PreRNN.
    """
    spec = replace(spec, activation=None, behind="features")
    cnn = backbone(spec.backbone, device="meta", **spec.backbone_options)
    rows = [("frame-wise CNN", replace(spec, method="framewise"))]
    for cell in cells:
        size = matched_hidden_size(cnn, spec.layer, cell=cell, outputs=task.outputs)
        stacked = replace(spec, method="traditional", cell=cell, hidden_size=size, hidden="full")
        rows.append((f"traditional {cell.upper()}, {size} units", stacked))
        if cell == "vrnn":
            rows.append((f"traditional VRNN, {size} units, ReLU", replace(stacked, activation="relu")))
    for cell in cells:
        base = replace(spec, method="prernn", cell=cell, hidden="full")
        rows.append((f"Pre{cell.upper()}", replace(base, input="gate")))
        if cell != "vrnn":
            rows.append((f"Pre{cell.upper()}-SIH", replace(base, input="single")))
    return [_counted(name, each, task) for name, each in rows]


def supplement_rows(spec: NetworkSpec, task: Task, cells: Sequence[str]) -> list[Row]:
    """The PreRNN supplement's Tables 1 to 3: hidden sizes, which layers and how many, pre-trained or random ``W_xy``.

    Raises:
        ValueError: ``spec.layer`` does not name two layers, such as fc6 and fc7.
    """
    layers = spec.layer if isinstance(spec.layer, list) else []
    if len(layers) != 2:
        raise ValueError(f"the supplement's networks: expected two layers, such as [fc6,fc7], got {spec.layer!r}")
    spec = replace(spec, activation=None, behind="features", hidden="full", input="gate", method="prernn")
    cnn = backbone(spec.backbone, device="meta", **spec.backbone_options)
    width = replace(spec, layer=layers[0]).build(task.outputs).recurrent_layers[0].hidden_size
    named: list[tuple[str, NetworkSpec]] = []
    for cell in cells:
        own, title = replace(spec, cell=cell), f"Pre{cell.upper()}"
        named += _of_sizes(own, cnn, layers, width, task)
        named += [(f"{title}, {layer}", replace(own, layer=layer)) for layer in layers]
        both, first = "+".join(layers), replace(own, layer=layers[0])
        named.append((f"{title}, {both}", own))
        named.append((f"{title}, {both}, a random layer on top", replace(own, layers_on_top=1)))
        named.append((f"{title}, {layers[0]}, random W_xy", replace(first, pretrained_layer=False)))
        if cell != "vrnn":  # with one gate PreRNN-SIH is PreRNN
            single = replace(first, input="single")
            named.append((f"{title}-SIH, {layers[0]}", single))
            named.append((f"{title}-SIH, {layers[0]}, random W_xy", replace(single, pretrained_layer=False)))
    return [_counted(name, each, task) for name, each in named]


def _of_sizes(
    spec: NetworkSpec, cnn: nn.Module, layers: list[str], width: int, task: Task
) -> list[tuple[str, NetworkSpec]]:
    """Traditional RNNs of a cell: one layer with as many weights as PreRNN, two of several sizes, two with as many."""
    name = f"traditional {spec.cell.upper()}"
    matched = partial(matched_hidden_size, cnn, cell=spec.cell, outputs=task.outputs)
    sizes = [(1, matched(layers[0]))] + [(2, max(1, round(share * width))) for share in SHARES_OF_SIZE]
    sizes.append((2, matched(layers, num_layers=2)))
    stacked = replace(spec, method="traditional", layer=layers[0])
    return [
        (f"{name}, {count} of {size} units", replace(stacked, num_layers=count, hidden_size=size))
        for count, size in sizes
    ]


def few_videos_rows(spec: NetworkSpec, task: Task, structures: Sequence[str]) -> list[Row]:
    """Frame-wise, traditional with as many weights as PreRNN, PreRNN and PreRNN-SIH; and with sparse ``W_hh``.

    Traditional ones are included twice: uncalibrated, and with gate inputs calibrated as PreRNN's are; once if
    ``spec`` calibrates all. Of VRNNs one has tanh and one the ReLU that PreVRNN has from most CNNs.
    """
    framewise, *others = prernn_rows(spec, task, [spec.cell])
    rows = [framewise]
    for row in others:
        rows.append(row)
        if row.spec.method == "traditional" and spec.calibrate != "all":
            rows.append(_counted(f"{row.name}, calibrated", replace(row.spec, calibrate="all"), task))
        rows += [sparse_row(row, hidden, task) for hidden in structures]
    return rows


def continuity_rows(spec: NetworkSpec, task: Task) -> list[Row]:
    """The network of ``spec`` trained in each of `WAYS` that the task supports; equivalent ones only once."""
    rows: list[Row] = []
    for name, way in WAYS.items():
        try:
            known = way.of(task)
        except NotImplementedError:  # it weights frames, but the task's loss is not a loss of frames
            continue
        if known not in [row.continuity for row in rows]:
            rows.append(replace(_counted(name, spec, task), continuity=known))
    return rows


def start_rows(spec: NetworkSpec, task: Task, structures: Sequence[str]) -> list[Row]:
    """The network of ``spec``, full and sparse, with ``W_hh`` initialized at each of the scales `GAINS`."""
    return [
        _counted(f"{hidden}, gain {gain}", replace(spec, hidden=hidden, start=gain), task)
        for hidden in ("full", *structures)
        for gain in GAINS
    ]


def sparse_row(best: Row, hidden: str, task: Task) -> Row:
    """The network of ``best`` with another structure of ``W_hh``."""
    return _counted(f"{best.name}, {hidden}", replace(best.spec, hidden=hidden), task)


def rcn_rows(spec: NetworkSpec, task: Task, structures: Sequence[str], also: Sequence[str] = ()) -> list[Row]:
    """Frame-wise, RCN from each of `RCN_STARTS`, sparse RCN from the last, inflated (also random), other clip networks.

    Args:
        spec: the 2-D backbone and its weights.
        task: with ``clip_length``, the number of frames of a clip.
        structures: of ``W_hh``.
        also: backbones for whole clips, with random weights.
    """
    frames = task.clip_length or 16
    plain = replace(spec, method="framewise", layer=None, rcn={}, rcn_below=False, inflate=None, activation=None)
    kept = {key: value for key, value in spec.rcn.items() if key not in ("init", "pretrained", "hidden")}
    base = replace(plain, method="rcn", layer=spec.layer, hidden="full")
    rows = [("frame-wise CNN", plain)]
    rows += [(f"RCN, {name}", replace(base, rcn={**kept, **options})) for name, options in RCN_STARTS.items()]
    identity = replace(base, rcn={**kept, "init": "identity"})
    rows += [(f"RCN, pre-trained, identity, {hidden}", replace(identity, hidden=hidden)) for hidden in structures]
    rows.append(("inflated to 3-D", replace(plain, inflate={"frames": frames, "init": "mean"})))
    drawn = replace(plain, inflate={"frames": frames, "init": "random"}, pretrained=False, weights=None)
    rows.append(("inflated to 3-D, random", drawn))
    clips = NetworkSpec(method="framewise", channels=spec.channels, frames=frames)
    rows += [(f"{name}, random", replace(clips, backbone=name)) for name in also]
    return [_counted(name, each, task) for name, each in rows]


def _counted(name: str, spec: NetworkSpec, task: Task) -> Row:
    net = spec.build(task.outputs)
    return Row(name, spec, weights=recurrent_parameters(net).introduced, total=total_weights(net))


@dataclass(frozen=True)
class Budget:
    """The budget of every network.

    Attributes:
        epochs: number of epochs over the training videos.
        batch_size: videos per batch.
        rates: learning rates that the search tries.
        shares: shares of the rate for the pre-trained part, each of which the search tries with each rate.
        searches: trainings at each rate, whose mean score counts: a single one may be lucky near the stability limit.
        seeds: seeds of the final trainings.
        passes: number of times that the trunk runs over the training videos, each with different crops; epoch n takes
            pass n mod passes.
        held_out: share of the training videos on which the search is judged.
        few: training videos of each class, drawn separately for each seed; the search is judged on videos that were not
            drawn. None takes all.
        joint: number of batches in which the whole network trains after the part behind the frozen trunk has, rounded
            to whole epochs; 0 is none.
        then: share of the rate used in the ``joint`` batches.
        judge: what the search goes by: the task's score with the state "reset" before each video, or "live", never.
        clip: maximum gradient norm; infinite is no limit.
        continuity: how states carry over from clip to clip in training; ignored by networks of whole clips.
        sparse_power: exponent of the learning rate of sparse recurrences, see
            `prernn.training.learning.rate_factors`.
        dropout: of recurrent layers in training.

    Raises:
        ValueError: numbers out of range, missing or repeated ones; a seed that is used by searches.
    """

    epochs: int = 20
    batch_size: int = 16
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    shares: tuple[float, ...] = (1.0,)
    searches: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)
    passes: int = 4
    held_out: float = 0.25
    few: int | None = None
    joint: int = 0
    then: float = 0.1
    judge: Literal["reset", "live"] = "reset"
    clip: float = 1.0
    continuity: Continuity = field(default_factory=Continuity)
    sparse_power: float = SPARSE_POWER
    dropout: Dropout = field(default_factory=Dropout)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "passes", "searches"):
            whole(name, getattr(self, name))
        if self.few is not None:
            whole("few", self.few)
        whole("joint", self.joint, 0)
        real("then", self.then, 0, 1, above=True)
        for name in ("rates", "shares", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: expected one at least, and none twice, got {list(values)}")
        for rate in self.rates:
            real("rates", rate, 0, above=True)
        for share in self.shares:
            real("shares", share, 0)
        for seed in self.seeds:
            if whole("seeds", seed, 0) in self.search_seeds:
                last = f" to {self.search_seeds[-1]}" if self.searches > 1 else ""
                raise ValueError(f"seeds: expected others than those of searches, {SEARCH_SEED}{last}, got {seed}")
        if real("held_out", self.held_out, 0, 1) in (0, 1):
            raise ValueError(f"held_out: expected a share between 0 and 1, got {self.held_out}")
        if self.clip != math.inf:
            real("clip", self.clip, 0, above=True)
        if self.judge not in ("reset", "live"):
            raise ValueError(f'expected judge to be "reset" or "live", got {self.judge!r}')

    @property
    def search_seeds(self) -> range:
        """Seeds of the trainings at each rate that is tried."""
        return range(SEARCH_SEED, SEARCH_SEED + self.searches)


def check_comparable(task: Task) -> None:
    """Raises NotImplementedError for a task whose networks can't be compared."""
    if not task.comparable:
        raise NotImplementedError(f"task {task.name!r}: expected one whose networks can be compared")


def record(row: Row) -> dict[str, Any]:
    """Everything known about a row, as plain data."""
    weights = {"recurrent_weights": row.weights, "weights": row.total}
    values = {
        "network": row.name,
        "recipe": asdict(row.spec),
        **weights,
        "rate": row.rate,
        "pretrained": row.pretrained,
    }
    values |= {name: value for name in ("few", "epochs") if (value := getattr(row, name)) is not None}
    if row.continuity is not None:
        values["continuity"] = asdict(row.continuity)
    search = {rate_text(*rates): score for rates, score in sorted(row.search.items())}
    finals = [{name: part for name, part in result.items() if name != "verdicts"} for result in row.finals]
    return {**values, "search": search, "finals": finals}


def rate_text(rate: float, pretrained: float) -> str:
    """A rate in words, with that of the pre-trained part if it differs."""
    return f"{rate:g}" if pretrained == 1 else f"{rate:g} ({rate * pretrained:g} of what is pre-trained)"
