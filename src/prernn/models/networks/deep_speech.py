"""Recurrent layers on a spectrogram, as in Deep Speech 2, with any cell and any structure of ``W_hh``."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.layers.arguments import check_lengths, whole
from prernn.layers.cells import make_cell
from prernn.layers.input_to_hidden import TraditionalInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.base import Structure
from prernn.models.networks.spectrogram import Spectrogram, normalized
from prernn.models.networks.time_convolution import TimeConvolution
from prernn.ops.reference import State, flipped


class DeepSpeech(SequenceNetwork):
    """Scores of letters at each step of a spectrogram (Amodei et al., "Deep Speech 2", ICML 2016). See `deep_speech`.

    It has convolutions (`prernn.models.networks.spectrogram.Spectrogram`), recurrent layers with batch normalization
    between them, over all steps of a batch at once (section 3.2; there it normalizes ``W h`` of the layer below, here
    that h itself, as in most code), and a linear layer. If the convolutions see later windows, the layers run in both
    directions and their outputs are added: the network needs the whole recording. If they are causal, it runs step by
    step, and a look-ahead convolution (section 3.5) reads the outputs of a unit over the last steps:
    ``r_t = sum_j w_j h_{t-j}`` over ``lookahead + 1`` steps, which is the paper's, delayed by ``lookahead`` steps. So
    its letters come that much later, and the last ones only if enough silence follows. It starts as ``r_t = h_t``: with
    random w it would learn far more slowly (docs/sequences.md).

    Attributes:
        cnn: the convolutions.
        layers: recurrent layers, one per level, or two with both directions.
        norms: batch normalization before each level except the first.
        ahead: the look-ahead convolution, or None.
    """

    wants_lengths = True

    def __init__(
        self,
        cnn: Spectrogram,
        *,
        cell: str = "gru",
        hidden_size: int = 768,
        num_layers: int = 5,
        hidden: str | Structure = "full",
        start: float | str = 1.0,
        lookahead: int = 0,
        outputs: int = 29,
    ):
        super().__init__(cnn.frame_shape)
        whole("hidden_size", hidden_size)
        if whole("lookahead", lookahead, 0) and not cnn.causal:
            raise ValueError(f"lookahead: expected 0 with both directions, or a causal network, got {lookahead}")
        self.cnn = cnn
        self.sees_ahead = not cnn.causal
        self.directions = 2 if self.sees_ahead else 1
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        sizes = [cnn.size, *[hidden_size] * (whole("num_layers", num_layers) - 1)]
        for number, size in enumerate(sizes):
            if number:
                self.norms.append(nn.BatchNorm1d(size))
            for _ in range(self.directions):
                kind = make_cell(cell)
                projection = TraditionalInput(size, hidden_size, len(kind.gates))
                self.layers.append(RecurrentLayer(projection, kind, hidden_size, hidden, start=start))
        kernel = (lookahead + 1, 1)
        self.ahead: TimeConvolution | None = None
        if lookahead:
            self.ahead = TimeConvolution(hidden_size, hidden_size, kernel, causal=True, groups=hidden_size)
            nn.init.zeros_(self.ahead.conv.weight)
            nn.init.ones_(self.ahead.conv.weight[:, :, -1])
        self.output_norm = nn.BatchNorm1d(hidden_size)
        self.output = nn.Linear(hidden_size, whole("outputs", outputs), bias=False)

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order; with both directions, forwards first."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def delay(self) -> int:
        """The look-ahead in steps."""
        return self.ahead.kept if self.ahead is not None else 0

    def new_parameters(self) -> list[nn.Parameter]:
        """All parameters: none is pre-trained."""
        return list(self.parameters())

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zeros for B streams: the past of each convolution, the state of each layer. Empty with both directions."""
        return self._zeros(whole("batch_size", batch_size, 0))

    def _zeros(self, batch_size: int) -> NetworkState:
        """`init_state` for a batch size that may be variable, in an export."""
        if self.sees_ahead:
            return ()
        past: list[State] = [(part,) for part in self.cnn.no_past(batch_size)]
        past += [layer.init_state(batch_size) for layer in self.recurrent_layers]
        return tuple(past + ([(self.ahead.no_past(batch_size, 1),)] if self.ahead is not None else []))

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        if self.sees_ahead:
            return []
        parts = [("past",)] * 2 + [layer.cell.states for layer in self.recurrent_layers]
        parts += [("past",)] if self.ahead is not None else []
        return [f"state_{number}_{name}" for number, part in enumerate(parts) for name in part]

    def forward(
        self,
        video: Tensor,
        state: NetworkState | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """Maps spectrograms ``(B, T, 2, F)``, T steps of two windows, to outputs ``(B, T, K)`` and the final states.

        Args:
            video: the spectrograms.
            state: as returned before, for a causal network; None starts at zero.
            lengths: steps of each ``(B,)``, at least 1; later outputs are meaningless.
            checkpoint: must be None.

        Raises:
            ValueError: another shape, lengths or a state that don't fit.
            NotImplementedError: a state with both directions, or ``checkpoint``.
        """
        if video.ndim != 4 or tuple(video.shape[2:]) != self.frame_shape or video.shape[1] == 0:
            wanted = ", ".join(map(str, ("B", "T", *self.frame_shape)))
            raise ValueError(f"expected spectrograms ({wanted}) with at least one step, got shape {tuple(video.shape)}")
        if checkpoint is not None:
            raise NotImplementedError("activation checkpoints: expected a network made of a CNN, got Deep Speech")
        batch, steps = video.shape[:2]
        own = check_lengths(lengths, steps, batch, video.device, least=1)
        if own is not None and bool((own == steps).all()):
            own = None
        given = self._opened(state, batch)
        x, past = self.cnn(video, [part[0] for part in given[:2]] or None, own)
        x, states = self._through_layers(x.transpose(0, 1), given[2:], own)
        following = [*((part,) for part in past), *states]
        if self.ahead is not None:
            x, after = self.ahead(x.permute(1, 2, 0).unsqueeze(3), given[-1][0], own)  # (B, D, T, 1)
            x = x.squeeze(3).permute(2, 0, 1)
            following.append((after,))
        out = self.output(normalized(self.output_norm, x.transpose(0, 1), own))  # (B, T, K)
        return out, () if self.sees_ahead else tuple(following)

    def _opened(self, state: NetworkState | None, batch: int) -> NetworkState:
        zeros = self._zeros(batch)
        if not state:
            return zeros
        if self.sees_ahead:
            raise NotImplementedError("expected no state: both directions need the whole recording")
        wanted, got = ([[tuple(leaf.shape) for leaf in part] for part in parts] for parts in (zeros, state))
        if wanted != got:
            raise ValueError(f"expected a state of {batch} streams with shapes {wanted}, got {got}")
        return state

    def _through_layers(self, x: Tensor, given: NetworkState, lengths: Tensor | None) -> tuple[Tensor, list[State]]:
        """Runs steps ``(T, B, D)`` through all levels; returns outputs and the final states."""
        states: list[State] = []
        for level in range(len(self.norms) + 1):
            if level:
                x = normalized(self.norms[level - 1], x.transpose(0, 1), lengths).transpose(0, 1)
            if not self.sees_ahead:
                x, state = self._run(self.recurrent_layers[level], x, given[level], lengths)
                states.append(state)
                continue
            onward, back = self.recurrent_layers[2 * level : 2 * level + 2]
            begin = onward.init_state(x.shape[1])
            ahead, _ = self._run(onward, x, begin, lengths)
            behind, _ = self._run(back, flipped(x, lengths), begin, lengths)
            x = ahead + flipped(behind, lengths)
        return x, states

    @staticmethod
    def _run(layer: RecurrentLayer, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        out, state = layer((x.flatten(0, 1),), state, lengths)
        return out.unflatten(0, x.shape[:2]), state

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """Maps two windows ``(B, 2, F)`` of streams to outputs ``(B, K)`` and the next state.

        Raises:
            ValueError: another shape.
            NotImplementedError: a network with both directions.
        """
        if self.sees_ahead:
            raise NotImplementedError("expected a causal network: both directions can't run step by step")
        if frame.ndim != 3:
            wanted = ", ".join(map(str, ("B", *self.frame_shape)))
            raise ValueError(f"expected two windows ({wanted}), got shape {tuple(frame.shape)}")
        out, state = self(frame.unsqueeze(1), state)
        return out[:, 0], state


def deep_speech(
    cnn: nn.Module,
    *,
    cell: str = "gru",
    hidden_size: int = 768,
    num_layers: int = 5,
    hidden: str | Structure = "full",
    start: float | str = 1.0,
    lookahead: int = 0,
    outputs: int = 29,
) -> DeepSpeech:
    """Recurrent layers on the convolutions of a spectrogram: Deep Speech 2.

    Example:
        >>> import prernn, torch
        >>> from prernn.models.networks.deep_speech import deep_speech
        >>> cnn = prernn.backbone("spectrogram", features=81, filters=4, causal=True)
        >>> net = deep_speech(cnn, hidden_size=16, num_layers=2, hidden="diagonal", lookahead=4).eval()
        >>> whole, _ = net(torch.rand(1, 6, 2, 81))
        >>> whole.shape
        torch.Size([1, 6, 29])

    Args:
        cnn: `prernn.models.networks.spectrogram.Spectrogram`; it is copied. If it is causal the layers run forwards,
            otherwise in both directions.
        cell: "vrnn", "lstm", "gru", or another of `prernn.layers.cells.CELLS`.
        hidden_size: ``D`` of each layer and direction.
        num_layers: number of levels.
        hidden: structure of ``W_hh``.
        start: as in `prernn.convert`.
        lookahead: steps of two windows that a causal network looks ahead.
        outputs: ``K``: letters, and the blank of CTC.

    Raises:
        ValueError: numbers out of range, an unknown cell or structure, a look-ahead with both directions.
        NotImplementedError: a backbone other than a spectrogram.
    """
    if not isinstance(cnn, Spectrogram):
        raise NotImplementedError(f"deep_speech: expected the backbone spectrogram, got {type(cnn).__name__}")
    made = {"cell": cell, "hidden_size": hidden_size, "num_layers": num_layers, "hidden": hidden}
    made |= {"start": start, "lookahead": lookahead, "outputs": outputs}
    network = DeepSpeech(copy.deepcopy(cnn), **made)  # type: ignore[arg-type]  # each has its own
    network.recipe = Recipe(**getattr(cnn, "recipe_of_backbone", {})).with_step("deep_speech", **made)
    return network.train(cnn.training)
