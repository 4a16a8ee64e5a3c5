"""How a config describes a network: a backbone, and how it becomes recurrent."""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from prernn.conversion.calibration import gated_layers, with_calibration
from prernn.conversion.convert import check_traditional, convert, framewise, traditional
from prernn.conversion.graph.ending import final_value
from prernn.conversion.graph.nodes import value_shape
from prernn.conversion.inflate import inflate
from prernn.conversion.network import RecurrentNetwork, of_a_cnn
from prernn.conversion.rcn import convert_rcn
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.input_to_hidden import INPUTS
from prernn.layers.names import look_up
from prernn.layers.starts import CNN, LASTING
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec, known_backbone
from prernn.models.networks.deep_speech import deep_speech
from prernn.models.networks.spectrogram import Spectrogram

DEEP_SPEECH = ("cell", "hidden", "hidden_size", "num_layers", "lookahead", "start")
"""Options for the layers on top of a spectrogram."""


@dataclass(frozen=True)
class NetworkSpec:
    """A backbone and how it becomes recurrent.

    Attributes:
        backbone: a name of `prernn.models.backbones.backbone`, or a class of your own, ``"file.py:Name"``.
        pretrained: load the weights that the backbone's library offers: True for its default, or one of torchvision's
            names, such as "IMAGENET1K_V1".
        weights: a local file of weights instead of the library's, or the run folder of a frame-wise network: see
            `prernn.models.weight_files.load_weights`. Its output layer may differ if a new one is made.
        keep_output: keep the CNN's own trained output layer instead of making a new one; it must have as many outputs
            as the task (``backbone_options`` may have to say so: ``{"classes": 136}``).
        backbone_options: further arguments of the backbone, such as ``{"frames": 8}`` for C3D.
        channels: input channels, if they are not the 3 colors, such as 20 for ten frames of optical flow: see
            `prernn.models.weight_files.adapt_channels`.
        inflate: first makes the CNN a 3-D network: arguments of `prernn.inflate`, such as ``{"frames": 8}``.
        frames: frames of a clip, for a 3-D backbone that takes clips of any length, such as "r3d_18".
        method: "prernn" (`convert`), "traditional", "rcn" (`convert_rcn`), "framewise" (no recurrence), or
            "deep_speech" (`prernn.models.networks.deep_speech.deep_speech`) on the backbone "spectrogram".
        layer: dotted name or names of the layers that become recurrent; None takes the last.
        cell: "vrnn", "lstm", "gru", another of `prernn.layers.cells.CELLS`, or one of your own, ``"file.py:Name"``.
        input: "gate" (PreRNN) or "single" (PreRNN-SIH), or a form of your own.
        hidden: structure of ``W_hh``.
        inputs: structure of ``W_ih`` of stacked layers: those of method "traditional" and ``layers_on_top``.
        start: how the recurrence is initialized: see `prernn.layers.starts`. A number multiplies torch.nn's ``W_hh``;
            with "lasting" states last long, for questions about time; with "cnn" the network starts as the CNN, for
            questions that single frames nearly answer (LSTM and GRU: with ``keep_activation`` and ``calibrate``). None
            means "lasting" if ``calibrate`` is on, else 1, as in the papers. Layers with random weights, such as
            stacked ones, use "lasting" instead of "cnn".
        rcn: further arguments of `convert_rcn`, such as ``{"init": "random", "mix": "sum"}``; its ``layers`` and
            ``hidden`` are ``layer`` and ``hidden`` here, unless they are given in ``rcn``.
        rcn_below: first convert the CNN to an RCN and then by ``method``: PreRNN on top of RCN.
        pretrained_layer: False initializes the converted layer at random.
        keep_activation: keep the CNN's activation before the recurrence: see `convert`.
        calibrate: bring the gate inputs of converted layers to a common scale, measured on a few training videos before
            training: see `prernn.calibrate`. "all" includes stacked layers; False is as in the papers.
        activation: activation of a traditional VRNN, "tanh" (the default if None) or "relu": see `traditional`. PreVRNN
            has that of the CNN.
        behind: "features", or "outputs" for a traditional RNN that reads the outputs of the CNN, which keeps its output
            layer: post-processing.
        hidden_size: hidden size of a traditional RNN, or a list with one size per layer; None takes the size of the
            features. For Deep Speech a single number; None means 768.
        num_layers: layers of a traditional RNN; None means as many as there are sizes, or one. For Deep Speech None
            means 5.
        lookahead: steps that a causal Deep Speech looks ahead.
        layers_on_top: further random recurrent layers on a converted network (the supplement's 3-layer case).
    """

    backbone: str = DEFAULT_BACKBONE
    pretrained: bool | str = False
    weights: str | None = None
    keep_output: bool = False
    backbone_options: dict[str, Any] = field(default_factory=dict)
    channels: int | None = None
    inflate: dict[str, Any] | None = None
    frames: int | None = None
    method: Literal["prernn", "traditional", "framewise", "rcn", "deep_speech"] = "prernn"
    layer: str | list[str] | None = None
    cell: str = "gru"
    input: str = "gate"
    hidden: str = "full"
    inputs: str = "full"
    start: float | Literal["lasting", "cnn"] | None = None
    rcn: dict[str, Any] = field(default_factory=dict)
    rcn_below: bool = False
    pretrained_layer: bool = True
    keep_activation: bool = False
    calibrate: bool | Literal["all"] = True
    activation: Literal["tanh", "relu"] | None = None
    behind: Literal["features", "outputs"] = "features"
    hidden_size: int | list[int] | None = None
    num_layers: int | None = None
    layers_on_top: int = 0
    lookahead: int = 0

    def __post_init__(self) -> None:
        for name, function in (("rcn", convert_rcn), ("inflate", inflate)):
            known = [key for key in inspect.signature(function).parameters if key not in ("cnn", "outputs")]
            if unknown := [key for key in getattr(self, name) or {} if key not in known]:
                raise ValueError(f"recipe {name}: expected keys among {', '.join(known)}, got {', '.join(unknown)}")
        if self.rcn and self.method != "rcn" and not self.rcn_below:
            raise ValueError(f"recipe rcn: expected method 'rcn' or rcn_below with it, got method {self.method!r}")

        own = self.method == "prernn" and self.cell != "vrnn"
        if own and self.start == CNN and not self.calibrate:
            raise ValueError(f"recipe start: expected calibrate with {CNN!r} and the cell {self.cell}, got false")
        if self.activation is not None and self.method != "traditional" and not self.layers_on_top:
            raise ValueError(
                f"recipe activation: expected method 'traditional' or layers_on_top with it, got {self.method!r}"
            )
        if self.inputs != "full" and self.method != "traditional" and not self.layers_on_top:
            raise ValueError(
                f"recipe inputs: expected method 'traditional' or layers_on_top with it, got {self.method!r}"
            )
        if self.method == "deep_speech":
            self._check_deep_speech()
        if self.lookahead and self.method != "deep_speech":
            raise ValueError(f"recipe lookahead: expected method 'deep_speech' with it, got {self.method!r}")
        if self.behind != "features" and self.method != "traditional":
            raise ValueError(f"recipe behind: expected method 'traditional' with it, got {self.method!r}")

    def _check_deep_speech(self) -> None:
        taken = ("method", "backbone", "backbone_options", "pretrained", "weights", *DEEP_SPEECH)
        for option in fields(self):
            default = option.default if option.default_factory is MISSING else option.default_factory()
            if option.name not in taken and getattr(self, option.name) not in (default, False):
                raise ValueError(f"recipe {option.name}: expected another method than 'deep_speech', which has none")

    def knowing(self, options: Mapping[str, Any]) -> "NetworkSpec":
        """A copy with options of the backbone that follow from the data.

        Raises:
            ValueError: ``backbone_options`` contradict them.
        """
        for name, value in options.items():
            if (given := self.backbone_options.get(name, value)) != value:
                raise ValueError(f"recipe backbone_options {name}: expected {value}, as in the data, got {given!r}")
        return replace(self, backbone_options={**self.backbone_options, **options})

    def build(self, outputs: int | None = None) -> RecurrentNetwork:
        """Like `network`, for a CNN. Raises NotImplementedError for any other network."""
        return of_a_cnn(self.network(outputs))

    def network(self, outputs: int | None = None) -> SequenceNetwork:
        """Builds the network with a new output layer of size ``outputs``, or the CNN's own with ``keep_output``.

        Raises:
            ValueError: a name, structure or file that does not fit.
            NotImplementedError: a backbone that can't become recurrent in this way, or can't take so many channels.
            OSError: a file that is missing, or weights that can't be downloaded.
        """
        check_traditional(
            self.cell, self.activation, self.behind
        )  # reports invalid names before weights are read or downloaded
        look_up(self.input, INPUTS, "input", "introduced")
        drawn = None if self.keep_output else outputs
        cnn = backbone(
            self.backbone,
            pretrained=False if self.weights is not None else self.pretrained,
            weights=self.weights,
            channels=self.channels,
            new_output=drawn is not None and self.behind == "features",
            **self.backbone_options,
        )
        if isinstance(cnn, Spectrogram) and self.method != "deep_speech":
            raise ValueError(f"recipe backbone spectrogram: expected method 'deep_speech', got {self.method!r}")
        if self.inflate is not None:
            cnn = inflate(cnn, **self.inflate)
        if self.rcn_below:
            cnn = convert_rcn(cnn, **{"hidden": self.hidden, **self.rcn})
        network = self._deep_speech(cnn, drawn) if self.method == "deep_speech" else self._make_recurrent(cnn, drawn)
        self._check_outputs(network, outputs)
        network.recipe = replace(
            network.recipe,
            backbone=known_backbone(self.backbone),
            backbone_options=self.backbone_options,
            inflate=self.inflate,
            channels=self.channels,
        )
        return network

    def _check_outputs(self, network: SequenceNetwork, outputs: int | None) -> None:
        if not self.keep_output or outputs is None:
            return
        own = value_shape(final_value(of_a_cnn(network).cnn))
        if own is None or own[1] != outputs:
            raise ValueError(f"recipe keep_output: expected a CNN with {outputs} outputs, got {own and own[1]}")

    def _deep_speech(self, cnn: nn.Module, outputs: int | None) -> SequenceNetwork:
        if isinstance(self.hidden_size, list):
            raise ValueError(f"recipe hidden_size: expected one number for Deep Speech, got {self.hidden_size}")
        given = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "outputs": outputs}
        made: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        made |= {"cell": self.cell, "hidden": self.hidden, "lookahead": self.lookahead}
        made |= {} if self.start is None else {"start": self.start}
        return deep_speech(cnn, **made)

    def _clip_size(self) -> tuple[int, ...] | None:
        side = input_spec(self.backbone, self.pretrained)["size"]
        return None if self.frames is None else (self.frames, side, side)

    def _start(self, drawn: bool) -> float | str:
        """How a layer's recurrence starts; ``drawn`` tells whether its input weights are random."""
        if self.start is None:
            return LASTING if self.calibrate else 1.0
        return LASTING if drawn and self.start == CNN else self.start

    def _make_recurrent(self, cnn: nn.Module, outputs: int | None) -> RecurrentNetwork:
        if self.method == "framewise":
            return framewise(cnn, outputs=outputs, image_size=self._clip_size())
        if self.method == "rcn":
            return convert_rcn(cnn, outputs=outputs, **{"layers": self.layer, "hidden": self.hidden, **self.rcn})
        drawn = self.method == "traditional" or not self.pretrained_layer
        recurrence: dict[str, Any] = {"cell": self.cell, "hidden": self.hidden}
        kind = {**recurrence, "start": self._start(drawn), "outputs": outputs}
        if self.method == "traditional":
            kind |= {"activation": self.activation, "behind": self.behind, "inputs": self.inputs}
            network = traditional(cnn, hidden_size=self.hidden_size, num_layers=self.num_layers, **kind)
            return with_calibration(network, stacked=True) if self.calibrate == "all" else network
        kind |= {"pretrained": self.pretrained_layer, "keep_activation": self.keep_activation}
        network = convert(cnn, self.layer, input=self.input, **kind)
        if self.layers_on_top:
            top = {**recurrence, "start": self._start(True), "activation": self.activation, "inputs": self.inputs}
            network = traditional(network, num_layers=self.layers_on_top, **top)
        stacked = self.calibrate == "all"
        return with_calibration(network, stacked) if self.calibrate and gated_layers(network, stacked) else network
