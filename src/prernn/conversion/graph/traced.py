"""A CNN as a graph that was checked to compute the same: the starting point of every conversion."""

from torch import fx, nn

from prernn.conversion.graph import shapes, tracing
from prernn.conversion.graph.fidelity import check_graph
from prernn.conversion.graph.one_size import trace_for_one_size


def traced(cnn: nn.Module, image_size: tuple[int, ...] | None = None) -> tuple[fx.GraphModule, tuple[int, ...]]:
    """The graph of a copy of ``cnn``, with each value's shape in its node, and the shape of a frame.

    Args:
        cnn: any CNN that torch.fx can trace. A forward that reads the size of its frames is traced for one size.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame, needed only if no usual size fits.

    Raises:
        ValueError: no module, an invalid ``image_size``.
        NotImplementedError: the CNN can't be traced, its graph computes something else, or it accepts none of the usual
            frame sizes.
    """
    if not isinstance(cnn, nn.Module):
        made = f": prernn.backbone({cnn!r}) makes one" if isinstance(cnn, str) else ""
        raise ValueError(f"expected a CNN, a torch.nn.Module, got {type(cnn).__name__}{made}")
    cnn = tracing.unwrapped(cnn)
    try:
        module, small = tracing.trace(cnn), True
    except NotImplementedError as error:
        try:
            module, small = trace_for_one_size(cnn, image_size), False
        except NotImplementedError:
            raise error from None  # its message says what to do
    shape = shapes.propagate(module, shapes.frame_candidates(module, image_size))
    check_graph(module, cnn, shape, small=small)
    return module, shape
