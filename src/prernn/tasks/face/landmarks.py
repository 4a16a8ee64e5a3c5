"""The 68 landmarks of a face (iBUG's scheme, as in 300W and 300VW): files, mirror image, and errors.

Points are ``(..., 68, 2)``, x then y, in pixels with 0-based pixel centers: the picture's top left pixel has its
center at (0, 0). Errors are divided by the inter-ocular distance, the distance between the outer eye corners
(points 36 and 45), as in 300VW, or by another of `SIZES`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prernn.media.video import VideoError
from prernn.reports.files import write_text

POINTS = 68
OUTPUTS = 2 * POINTS
"""Numbers per frame: x then y of each point."""
GREEN = (0, 255, 0)
EYE_CORNERS = (36, 45)
"""Outer corners of the two eyes."""

FIRST_LINE = 4
"""Line of a .pts file with the first point."""


def _mirror() -> tuple[int, ...]:
    pairs = [(i, 16 - i) for i in range(8)]  # jaw
    pairs += [(17 + i, 26 - i) for i in range(5)]  # brows
    pairs += [(31, 35), (32, 34)]  # nostrils; the bridge 27..30 and the tip 33 are in the middle
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    pairs += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58)]  # outer lips
    pairs += [(60, 64), (61, 63), (65, 67)]  # inner lips
    order = list(range(POINTS))
    for a, b in pairs:
        order[a], order[b] = b, a
    return tuple(order)


MIRROR = _mirror()
"""Point ``MIRROR[i]`` of a face becomes point ``i`` of its mirror image."""


def mirror(points: Tensor, width: int) -> Tensor:
    """Points ``(..., 68, 2)`` in the mirror image of a picture W = ``width`` pixels wide: reordered, x as W - 1 - x."""
    flipped = points[..., MIRROR, :].clone()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def read_pts(path: str | Path, base: int = 1) -> Tensor:
    """The landmarks of a ``.pts`` file: float64 ``(68, 2)``, 0-based pixels.

    Args:
        path: a file with the lines ``version: 1``, ``n_points: 68``, ``{``, 68 times ``x y``, ``}``.
        base: coordinate of the first pixel's center in the file: 1 for 300VW, which counts as Matlab does.

    Raises:
        VideoError: the file is missing, has another number of points, or a line can't be parsed; it names both.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    except OSError as error:
        raise VideoError(f"{path}: no landmarks: {error.strerror}") from error
    for number, form in enumerate((r"version:\s*\d+", r"n_points:\s*\d+", r"\{"), start=1):
        text = lines[number - 1].strip() if number <= len(lines) else ""
        if not re.fullmatch(form, text):
            wanted = ("version: 1", f"n_points: {POINTS}", "{")[number - 1]
            raise VideoError(f"{path}:{number}: expected '{wanted}', got {text!r:.60}")
    if (count := int(lines[1].split(":")[1])) != POINTS:
        raise VideoError(f"{path}:2: expected {POINTS} landmarks, got n_points: {count}")
    end = next((i for i, line in enumerate(lines) if line.strip() == "}"), len(lines))
    found = end - (FIRST_LINE - 1)
    if found != POINTS or end != len(lines) - 1:
        where, what = (end, "no '}'") if end == len(lines) else (end + 1, "'}'")
        rest = "" if end >= len(lines) - 1 else f" and {len(lines) - end - 1} more lines"
        raise VideoError(f"{path}:{where}: expected {POINTS} landmarks and '}}', got {found} and {what}{rest}")
    points = [_point(path, number, lines[number - 1]) for number in range(FIRST_LINE, FIRST_LINE + POINTS)]
    return torch.tensor(points, dtype=torch.float64) - base  # (68, 2)


def _point(path: Path, number: int, line: str) -> list[float]:
    try:
        x, y = (float(word) for word in line.split())
    except ValueError:
        raise VideoError(f"{path}:{number}: expected two numbers, got {line.strip()!r:.60}") from None
    if not (abs(x) < 1e6 and abs(y) < 1e6):  # NaN compares false
        raise VideoError(f"{path}:{number}: expected two coordinates in pixels, got {line.strip()!r:.60}")
    return [x, y]


def write_pts(path: str | Path, points: Tensor | Sequence[Sequence[float]], base: int = 1) -> Path:
    """Writes 0-based landmarks ``(68, 2)`` in the form read by `read_pts`, to a millionth of a pixel.

    Raises:
        ValueError: points of the wrong shape, or not finite.
        OSError: the file can't be written.
    """
    values = torch.as_tensor(points, dtype=torch.float64)
    if values.shape != (POINTS, 2) or not bool(values.isfinite().all()):
        raise ValueError(f"{path}: expected finite landmarks ({POINTS}, 2), got shape {tuple(values.shape)}")
    rows = "".join(f"{x:.6f} {y:.6f}\n" for x, y in (values + base).tolist())
    return write_text(path, f"version: 1\nn_points: {POINTS}\n{{\n{rows}}}\n")


def inter_ocular(points: Tensor) -> Tensor:
    """Distance ``(...)`` between the outer eye corners of ``(..., 68, 2)``.

    Raises:
        ValueError: points of the wrong shape, or corners that coincide.
    """
    if points.shape[-2:] != (POINTS, 2):
        raise ValueError(f"expected landmarks (..., {POINTS}, 2), got {tuple(points.shape)}")
    left, right = EYE_CORNERS
    distance = torch.linalg.vector_norm(points[..., left, :] - points[..., right, :], dim=-1)
    if bool((distance == 0).any()):
        raise ValueError(f"expected eye corners {EYE_CORNERS} apart from each other, got two at one place")
    return distance


def inter_pupil(points: Tensor) -> Tensor:
    """Distance ``(...)`` between the eyes' centers of ``(..., 68, 2)``, each the mean of the eye's six points."""
    left, right = points[..., 36:42, :].mean(-2), points[..., 42:48, :].mean(-2)
    return torch.linalg.vector_norm(left - right, dim=-1)


def box_size(points: Tensor) -> Tensor:
    """Square root ``(...)`` of the area of the upright box around points ``(..., 68, 2)``."""
    return (points.amax(-2) - points.amin(-2)).prod(-1).sqrt()


SIZES: dict[str, Callable[[Tensor], Tensor]] = {"eyes": inter_ocular, "pupils": inter_pupil, "box": box_size}
"""What errors can be divided by: "eyes", the outer eye corners, as in 300W and 300VW (Sagonas et al., ICCV-W 2013; Shen
et al., ICCV-W 2015); "pupils", as in Ren, Cao, Wei and Sun, "Face Alignment at 3000 FPS", CVPR 2014; "box", as in Bulat
and Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem?", ICCV 2017. The PreRNN paper says
no more than "normalized"."""


def normalized_errors(predicted: Tensor, true: Tensor, normaliser: str = "eyes") -> Tensor:
    """Mean distance between predicted and true points, over the size of the true face: ``(...)``.

    .. math:: e = \\frac{1}{68 \\, d(y)} \\sum_{i} \\|\\hat y_i - y_i\\|, \\quad d(y) = \\|y_{36} - y_{45}\\|
        \\text{ for "eyes"}

    Args:
        predicted: ``(..., 68, 2)`` in pixels.
        true: ``(..., 68, 2)`` in pixels.
        normaliser: the size d, a key of `SIZES`.

    Raises:
        ValueError: as in `inter_ocular`, or different shapes.
    """
    _same_shape(predicted, true)
    return torch.linalg.vector_norm(predicted - true, dim=-1).mean(-1) / SIZES[normaliser](true)


def motion_errors(predicted: Tensor, true: Tensor) -> Tensor:
    """How far the predicted motion from frame to frame differs from the true one, ``(..., T-1)``.

    .. math:: m_t = \\frac{1}{68 \\, \\|y_{t,36} - y_{t,45}\\|}
        \\sum_{i} \\|(\\hat y_{t,i} - \\hat y_{t-1,i}) - (y_{t,i} - y_{t-1,i})\\|

    A constant offset of the prediction costs nothing here; a prediction that trembles or stands still does.

    Args:
        predicted: ``(..., T, 68, 2)`` in pixels of one picture, so that a moving face box has no effect.
        true: ``(..., T, 68, 2)``.

    Raises:
        ValueError: as in `normalized_errors`.
    """
    _same_shape(predicted, true)
    error = predicted - true
    return torch.linalg.vector_norm(error.diff(dim=-3), dim=-1).mean(-1) / inter_ocular(true)[..., 1:]


def jitter(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean of `motion_errors` over the steps of ``(T, 68, 2)``, a scalar; NaN for a single frame."""
    return motion_errors(predicted, true).mean()


def _same_shape(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape:
        shapes = f"{tuple(predicted.shape)} and {tuple(true.shape)}"
        raise ValueError(f"expected predicted and true landmarks of one shape, got {shapes}")


def cumulative_error(errors: Tensor, threshold: float = 0.08, bins: int = 100) -> tuple[Tensor, Tensor]:
    """The cumulative error distribution of ``errors`` ``(N,)``; NaN counts as infinite.

    Returns:
        Levels ``(bins + 1,)`` from 0 to the threshold, and the share of errors up to each level.

    Raises:
        ValueError: a threshold or number of bins not above 0.
    """
    _check_threshold(threshold)
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    levels = torch.linspace(0, threshold, bins + 1, dtype=torch.float64)
    ordered = _finite_order(errors).cpu()
    return levels, torch.searchsorted(ordered, levels, right=True).double() / len(ordered)


def auc(errors: Tensor, threshold: float = 0.08) -> Tensor:
    """Area under the cumulative error curve of ``errors`` ``(N,)`` up to the threshold, as a share of the threshold.

    The curve is a staircase, so the integral is exact: each error e below the threshold adds the length
    ``threshold - e`` to it, hence ``AUC = mean(max(0, 1 - e / threshold))``. A scalar from 0 to 1; NaN without errors.
    The PreRNN paper does not state its threshold; 300VW's is 0.08.

    Raises:
        ValueError: a threshold not above 0.
    """
    _check_threshold(threshold)
    return (1 - _finite_order(errors) / threshold).clamp(min=0).mean()


def _finite_order(errors: Tensor) -> Tensor:
    return errors.double().nan_to_num(nan=torch.inf, posinf=torch.inf).sort().values


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < torch.inf:
        raise ValueError(f"threshold: expected a share of the inter-ocular distance above 0, got {threshold}")


def draw_points(
    frame: np.ndarray,
    points: Tensor | np.ndarray,
    box: Tensor | Sequence[float] | None = None,
    color: tuple[int, int, int] = GREEN,
) -> np.ndarray:
    """A copy of a frame with landmarks drawn on it.

    Args:
        frame: uint8 RGB ``(H, W, 3)``.
        points: ``(N, 2)`` in pixels; those that are not finite are left out.
        box: ``(x0, y0, x1, y1)``, drawn as a thin frame.
        color: RGB.

    Raises:
        ValueError: a frame of the wrong dtype or shape.
    """
    import cv2

    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"expected a frame uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    drawn = np.array(frame, order="C")
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    values = values[(np.abs(values) < 1e6).all(1)]  # NaN compares false
    span = np.ptp(values, axis=0).max() if len(values) else 0.0
    radius = max(1.0, float(span) / 80)  # pixels
    shift = 4  # number of bits for fractions of a pixel in OpenCV
    for x, y in np.round(values * 2**shift).astype(int).tolist():
        cv2.circle(drawn, (x, y), round(radius * 2**shift), color, cv2.FILLED, cv2.LINE_AA, shift)
    if box is not None:
        x0, y0, x1, y1 = (round(float(edge)) for edge in box)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), color, 1)
    return drawn
