"""``prernn info``: versions, devices and kernels of this installation."""

import importlib.metadata
import platform
from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command

PACKAGES = ("prernn", "torch", "torchvision", "timm", "lightning", "av", "onnxruntime", "openvino")


def add_arguments(parser: ArgumentParser) -> None:
    """``prernn info`` has no options."""


def run(options: Namespace) -> None:
    """Prints versions, devices and the available kernels."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from prernn import ops

    table = Table(show_header=False)
    table.add_row("python", platform.python_version())
    table.add_row("machine", f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}")
    for name in PACKAGES:
        table.add_row(name, _version(name))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(devices) or "none")
    for name in ops.BACKENDS:
        table.add_row(f"kernels: {name}", ops.missing(name) or _kernel_words(name))
    Console().print(table)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _kernel_words(name: str) -> str:
    import torch

    from prernn.ops import backends

    if name == "native":
        return f"{backends.kernels(name).instructions()} instructions"
    return "needs a CUDA device" if name == "triton" and not torch.cuda.is_available() else "yes"


INFO = Command("versions, devices and kernels of this installation", run, add_arguments)
