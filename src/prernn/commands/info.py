"""``prernn info``: versions, devices and kernels of this installation."""

import importlib
import importlib.metadata
import platform

import torch
from rich.console import Console
from rich.table import Table

from prernn import ops
from prernn.ops import backends

PACKAGES = ("prernn", "torch", "torchvision", "timm", "lightning", "av", "onnxruntime")


def show_installation() -> None:
    """Prints versions, devices and the kernels that are there."""
    table = Table(show_header=False)
    table.add_row("python", platform.python_version())
    table.add_row("machine", f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}")
    for name in PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(devices) or "none")
    for name in ops.BACKENDS:
        table.add_row(f"kernels: {name}", ops.missing(name) or _kernel_words(name))
    Console().print(table)


def _kernel_words(name: str) -> str:
    if name == "native":
        return f"{backends.kernels(name).instructions()} instructions"
    return "needs a CUDA device" if name == "triton" and not torch.cuda.is_available() else "yes"


def _add_info(commands) -> None:
    info = commands.add_parser("info", help="versions, devices and kernels of this installation")
    info.set_defaults(run=_info)


def _info(options) -> None:
    show_installation()
