"""A recurrent network over a live stream: one frame in, one answer out, at constant cost and memory.

`Stream` holds the state of a stream between frames. `predictions` runs one over anything that `prernn.media.video`
reads.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import DIMENSIONS, RecurrentNetwork

if TYPE_CHECKING:  # at run time they, and with them PyAV and torchvision, load when first used
    from prernn.media.transforms import TransformSpec


Frame = np.ndarray | Tensor


FrameTransform = Callable[[Frame], Tensor]


class Stream:
    """A stream through a network: call it with a frame, get the output of that moment.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> stream = prernn.Stream(net, transform={"size": 16})
        >>> for frame in torch.zeros(4, 48, 64, 3, dtype=torch.uint8):  # pictures (H, W, 3) as they come
        ...     out = stream(frame)
        >>> out.shape
        torch.Size([3])
        >>> stream.reset()  # forgets what it has seen

    ``stream(frame)`` takes uint8 ``(H, W, 3)`` RGB through the network's transform, or a float ``(C, H, W)``
    (snippets ``(C, D, H, W)``) as it is, as an array or a tensor, and gives what `RecurrentNetwork.step` gives,
    ``(K,)``, on the network's device. With ``batch_size`` B > 1, B streams run side by side: frames and outputs
    have a leading dimension B. Nothing is recorded for gradients.

    A network of snippets collects uint8 frames: it gives None until ``D`` have come, then the output of that
    snippet, then starts to collect the next; snippets do not overlap.

    The network is not copied, and may be shared by many streams: each holds a state of its own. Its convolutions are
    laid out with the channels last, which is faster and changes no value. A network in training mode runs in evaluation
    mode here and is handed back in training mode.

    Args:
        net: the network.
        transform: what makes uint8 frames into input: a TransformSpec, its dict, or a function from uint8
            ``(H, W, 3)`` to float ``(C, H, W)``. None takes ``net.recipe.transform``.
        batch_size: number of streams side by side.

    Attributes:
        labels: names of the ``K`` outputs from the network's recipe, or None.

    Raises:
        ValueError: ``batch_size < 1``, a transform with unknown keys.
    """

    def __init__(
        self,
        net: RecurrentNetwork,
        *,
        transform: "TransformSpec | Mapping[str, Any] | FrameTransform | None" = None,
        batch_size: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"expected a batch of at least 1 stream, got {batch_size}")
        channels_last(net)
        self.net, self.batch_size = net, batch_size
        self.labels: list[str] | None = net.recipe.labels
        self._transform = _frame_transform(net.recipe.transform if transform is None else transform)
        self.reset()

    def reset(self) -> None:
        """Forgets what the stream has seen."""
        self._diverged = False  # said once
        self._state: tuple | None = None  # None until the first frame, whose size the state may depend on
        self._pending: list[Tensor] = []  # (B, C, H, W) frames of the snippet to come

    def __call__(self, frame: Frame) -> Tensor | None:
        """The output for the next frame, ``(K,)``; with several streams ``(B, K)``; None within a snippet.

        Raises:
            ValueError: a dtype or shape that doesn't fit, uint8 frames for a network without a transform.
        """
        with torch.inference_mode(), evaluating(self.net):
            batch = self._batch(frame)
            if batch is None:
                return None
            out, self._state = self.net.step(batch, self._state)
        if not self._diverged and bool(out.isnan().any()):
            self._diverged = True
            warnings.warn("the network's output is not a number: it has diverged", RuntimeWarning, stacklevel=2)
        return out[0] if self.batch_size == 1 else out

    def probabilities(self, frame: Frame) -> Tensor | None:
        """As a call, but with softmax over the ``K`` outputs, in float32."""
        out = self(frame)
        return None if out is None else out.float().softmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The stream's state as a flat dict of tensors, batch first, to save and resume; empty before a frame.

        ``state_0_h`` is the tensor ``h`` of the first recurrent layer; ``pending (B, C, n, H, W)`` are frames
        collected for the next snippet.
        """
        leaves = [leaf for part in self._state or () for leaf in part]
        values = dict(zip(self.net.state_names, leaves, strict=True)) if leaves else {}
        if self._pending:
            values["pending"] = torch.stack(self._pending, dim=2)
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Goes on where the stream of `state_dict` was.

        Raises:
            ValueError: names or shapes of another network or number of streams; the stream is left as it was.
        """
        leaves = {name: value for name, value in values.items() if name != "pending"}
        state = self._checked_state(leaves) if leaves else None
        pending = [value.clone() for value in values["pending"].unbind(2)] if "pending" in values else []
        wanted = (self.batch_size, *self.net.frame_shape[:1])
        if pending and (pending[0].shape[:2] != wanted or len(pending) >= self._snippet):
            shape = tuple(values["pending"].shape)
            raise ValueError(f"expected pending frames {wanted} and less than {self._snippet} of them, got {shape}")
        self._state, self._pending = state, pending

    def _checked_state(self, leaves: dict[str, Tensor]) -> tuple:
        names = self.net.state_names
        if set(leaves) != set(names):
            raise ValueError(f"expected the state {names}, got {sorted(leaves)}")
        rest = iter(names)
        return tuple(
            tuple(_fitted(leaves, next(rest), leaf) for leaf in part) for part in self.net.init_state(self.batch_size)
        )

    @property
    def _snippet(self) -> int:
        """Frames a snippet, 1 for a network of single frames."""
        return self.net.frame_shape[1] if len(self.net.frame_shape) == 4 else 1

    def _batch(self, frame: Frame) -> Tensor | None:
        """The frame as network input ``(B, C, H, W)`` or ``(B, C, D, H, W)``, None within a snippet."""
        # copied, as arrays may be read-only or run backwards in memory (a BGR picture turned to RGB)
        value = torch.from_numpy(np.array(frame, order="C")) if isinstance(frame, np.ndarray) else frame
        if not isinstance(value, Tensor):
            raise ValueError(f"expected a frame as array or tensor, got {type(frame).__name__}")
        if self.batch_size == 1:
            value = value.unsqueeze(0)
        elif value.ndim == 0 or value.shape[0] != self.batch_size:
            raise ValueError(f"expected frames of {self.batch_size} streams, got shape {tuple(value.shape)}")
        batch = self._collect(value) if value.dtype == torch.uint8 else value
        if batch is None:
            return None
        shape = self.net.frame_shape
        if not batch.is_floating_point() or batch.ndim != len(shape) + 1 or batch.shape[1] != shape[0]:
            dimensions = DIMENSIONS[len(shape)].split(", ")[1:]
            wanted = f"float ({', '.join([str(shape[0]), *dimensions])})"
            if len(shape) > 2:  # pictures
                wanted = f"uint8 (H, W, 3) or {wanted}"
            raise ValueError(f"expected a frame {wanted}, got {batch.dtype} {tuple(batch.shape[1:])}")
        weight = next(self.net.parameters())
        return batch.to(weight.device, weight.dtype)

    def _collect(self, pictures: Tensor) -> Tensor | None:
        """uint8 ``(B, H, W, 3)`` to input; a snippet's frames are kept until it is full."""
        if self._transform is None:
            raise ValueError(
                "expected a float frame, got uint8: the network's recipe has no transform for it; pass transform="
            )
        frames = torch.stack([self._transform(picture) for picture in pictures])  # (B, C, H, W)
        if len(self.net.frame_shape) != 4:
            return frames
        if self._pending and self._pending[0].shape != frames.shape:
            expected, got = tuple(self._pending[0].shape), tuple(frames.shape)
            raise ValueError(f"expected frames {expected} as before in this snippet, got {got}")
        self._pending.append(frames)
        if len(self._pending) < self._snippet:
            return None
        snippet, self._pending = torch.stack(self._pending, dim=2), []  # (B, C, D, H, W)
        return snippet


def _frame_transform(transform: Any) -> FrameTransform | None:
    """A transform as a function, whatever form it came in."""
    if transform is None or callable(transform):
        return transform
    from prernn.media.transforms import TransformSpec, frame_transform

    return frame_transform(TransformSpec.from_dict(dict(transform)) if isinstance(transform, Mapping) else transform)


def _fitted(leaves: dict[str, Tensor], name: str, template: Tensor) -> Tensor:
    """A copy of the leaf called ``name`` on the device and in the dtype of ``template``, once it is known to fit."""
    value = leaves[name]
    # a feature map's size follows the frames, which are not here yet
    if value.ndim != template.ndim or value.shape[:2] != template.shape[:2]:
        raise ValueError(f"expected {name} of shape {tuple(template.shape)}, got {tuple(value.shape)}")
    return value.to(template.device, template.dtype, copy=True)
