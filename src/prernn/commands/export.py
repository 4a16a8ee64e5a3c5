"""``prernn export``: writes a run as a file for another runtime."""

from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from prernn.commands.arguments.command import Command, saying_warnings

if TYPE_CHECKING:
    from torch import Tensor

    from prernn.conversion.sequence_network import SequenceNetwork

FRAMES = 32
"""Frames of each video that is used to find the ranges of activations."""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn export``."""
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder or checkpoint")
    add("--format", default="onnx", help="onnx (default), openvino, or torch: torch.export's .pt2")
    add("--kind", default="step", help="step (default): one frame and the state; sequence: a whole video")
    add("--out", help="file to write (default: step.onnx, sequence.xml and so on in the run folder)")
    add(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="frame size, fixed (default: free where possible)",
    )
    add(
        "--precision",
        default="float32",
        help="float32 (default), or int8: a step computed in integers, for onnx and openvino",
    )
    videos = "int8: videos or folders of them, for finding the ranges of activations (default: made from the network)"
    add("--videos", nargs="+", metavar="PATH", help=videos)
    add("--stateful", action="store_true", help="openvino: keep the state of one stream inside the model")


def run(options: Namespace) -> None:
    """Writes the file after comparing it with the network, and says what is in it."""
    from rich.table import Table

    from prernn.engines.exported.export import FORMATS, export
    from prernn.models import checkpoint
    from prernn.reports.tables import print_whole
    from prernn.training.run.run_files import run_folder_of

    if options.format not in FORMATS:
        raise ValueError(f"--format: expected one of {', '.join(FORMATS)}, got {options.format!r}")
    net = checkpoint.load(Path(options.run))
    name = options.kind + ("-int8" if options.precision == "int8" else "") + FORMATS[options.format]
    path = Path(options.out) if options.out else run_folder_of(Path(options.run)) / name
    size = None if options.size is None else tuple(options.size)
    kind = {"kind": options.kind, "stateful": options.stateful, "precision": options.precision}
    with saying_warnings():
        about = export(net, path, options.format, image_size=size, inputs=_videos(net, options.videos), **kind)
    has_runtime = options.format != "onnx" or find_spec("onnxruntime") is not None
    compared = ", which gives what the network does" if has_runtime and options.precision == "float32" else ""
    beside = [path, path.with_suffix(".bin")] if options.format == "openvino" else [path, Path(f"{path}.data")]
    size_on_disk = sum(file.stat().st_size for file in beside if file.is_file()) / 1e6
    print(f"written: {path}, {size_on_disk:.1f} MB{compared}")
    table = Table(show_header=False)
    shape = [*about.frame_shape[:-2], *(("H", "W") if about.free_size else about.frame_shape[-2:])]
    time = [] if about.kind == "step" else ["T"]
    table.add_row("frame" if about.kind == "step" else "video", _words(["B", *time, *shape]))
    for leaf in about.states:
        table.add_row(leaf.name, _words(["B", *leaf.file_shape]))
    table.add_row("output", _words(["B", *time, about.outputs]))
    print_whole(table)


def _videos(net: "SequenceNetwork", paths: list[str] | None) -> "list[Tensor] | None":
    """The first frames of each video, transformed for the network."""
    if paths is None:
        return None
    from prernn.studies.runs.videos import video_batches

    return [batch["input"][0, :FRAMES] for batch in video_batches(paths)(Path(), net)]


def _words(shape: list[str | int]) -> str:
    return f"({', '.join(map(str, shape))})"


EXPORT = Command("write a run as a file for onnxruntime, OpenVINO or torch.export, and compare it", run, add_arguments)
