"""Opens a network or a file in a chosen engine."""

import os
import warnings
from pathlib import Path

import torch

from prernn.conversion.sequence_network import SequenceNetwork, frame_shape_of
from prernn.engines import kept, onnxruntime_engine, openvino_engine
from prernn.engines.choice import Opened, fastest
from prernn.engines.engine_network import EngineNetwork, Runner
from prernn.engines.exported.description import Description, describe
from prernn.engines.exported.export import export
from prernn.engines.exported.onnx_file import onnx_program, save_onnx
from prernn.engines.exported.program import plain_copy, traced
from prernn.engines.exported.torch_file import load_torch
from prernn.engines.torch_engine import TorchNetwork, program_runner
from prernn.layers.arguments import whole

ENGINES = ("torch", "onnxruntime", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
MODULES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
FILES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}
"""The engines that run an exported file, by its suffix; the first is the default."""


def opened(
    source: SequenceNetwork | str | os.PathLike[str],
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Opened:
    """A network whose steps the engine computes.

    Args:
        source: a network; a run folder or checkpoint; a file that `prernn.export` wrote, which determines its engine
            (for ``.onnx`` onnxruntime, unless "openvino" is asked for).
        engine: "torch", "onnxruntime", "openvino", or "auto" for the fastest that is installed and agrees
            (`prernn.engines.choice`). None is "torch", or the engine of a file.
        precision: of the arithmetic, "float32", "bfloat16", "float16" or "int8"; None is "float32", or a file's own,
            and in torch a quantized network's integers (`prernn.engines.torch_engine.TorchNetwork`). For "int8", torch
            stores the weights of recurrent and fully connected layers in 8 bits (`prernn.low_precision`), and the other
            engines compute in integers (`prernn.engines.exported.integer_file`).
        threads: number of threads of a step; None leaves it to the engine. For torch it applies to the whole process.

    Raises:
        ValueError: an unknown engine or precision, a file not written by prernn, a sequence instead of a step, an
            engine or precision other than that of the file, or of a network that is already in an engine.
        NotImplementedError: a precision that engine or processor lacks, a network that can't be exported, or one that
            hears both directions.
        ImportError: the engine is not installed.
    """
    if engine not in (None, *ENGINES, "auto"):
        raise ValueError(f"expected engine to be one of {', '.join((*ENGINES, 'auto'))}, got {engine!r}")
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}")
    threads = None if threads is None else whole("threads", threads)
    if isinstance(source, Opened):
        if engine not in (None, "auto", source.engine) or precision not in (None, source.precision):
            own = f"{source.engine} in {source.precision}"
            raise ValueError(f"expected a network for {engine} in {precision}, got one that is already in {own}")
        return source
    if not isinstance(source, (SequenceNetwork, str, os.PathLike)):
        got = f"{type(source).__name__}: prernn.convert makes a network of a CNN"
        raise ValueError(f"expected a network of prernn, or the path of a run, checkpoint or exported file, got {got}")
    if not isinstance(source, SequenceNetwork):
        path = Path(source)
        if path.suffix in FILES:
            return _of_file(path, engine, precision, threads)
        from prernn.models import checkpoint  # loads torchvision

        source = checkpoint.load(path)
    asked, precision = precision, precision or "float32"
    if engine == "auto" and source.sees_ahead:
        engine = "torch"
    if engine == "auto":
        installed = [name for name in ENGINES if name == "torch" or _is_able(name, precision)]
        return fastest(source, lambda name: opened(source, name, asked, threads), installed, precision, threads)
    if engine in (None, "torch"):
        if threads is not None:
            torch.set_num_threads(threads)
        return TorchNetwork(source, precision, integers=asked is None)
    if source.sees_ahead:
        raise NotImplementedError(f"engine {engine}: expected a network that goes step by step, got both directions")
    assert engine is not None  # torch
    return _in_engine(source, engine, precision, threads)


def _is_able(engine: str, precision: str) -> bool:
    try:
        check_engine(engine, precision)
    except (ImportError, NotImplementedError):
        return False
    return True


def check_engine(engine: str, precision: str) -> None:
    """Raises ImportError if an engine is not installed, NotImplementedError if it lacks a precision on this machine."""
    reason = MODULES[engine].missing()
    if reason:
        raise ImportError(f"engine {engine}: {reason}")
    MODULES[engine].check_precision(precision)


def _in_engine(net: SequenceNetwork, engine: str, precision: str, threads: int | None) -> EngineNetwork:
    check_engine(engine, precision)
    own = plain_copy(net)  # frame sizes to come are exported from the network as it is now
    name = kept.fingerprint(own)

    def runner_for(shape: tuple[int, ...]) -> Runner:
        size = shape[-2:] if len(shape) > 2 else None
        whole = precision == "int8"
        key = f"{name}-{'x'.join(map(str, size or ()))}{'-int8' if whole else ''}.onnx"
        path = kept.kept_file(key, lambda path: _write_integers(own, path, shape) if whole else _write(own, path, size))
        if engine == "onnxruntime":
            return onnxruntime_engine.runner(onnxruntime_engine.session_of(path, threads))
        return openvino_engine.runner(openvino_engine.model_of(path), precision, threads)

    description = describe(own, "step", frame_shape_of(own, None), 0, True)
    return EngineNetwork(description, runner_for, engine, precision, own)


def _write(net: SequenceNetwork, path: Path, size: tuple[int, ...] | None) -> None:
    save_onnx(onnx_program(traced(net, "step", size)), path)


def _write_integers(net: SequenceNetwork, path: Path, shape: tuple[int, ...]) -> None:
    size = (shape[-2], shape[-1]) if len(shape) > 2 else None
    if len(shape) > 2:
        warnings.warn("making a step in 8-bit integers: it takes about a minute, once", RuntimeWarning, stacklevel=2)
    export(net, path, precision="int8", image_size=size)


def _of_file(path: Path, engine: str | None, precision: str | None, threads: int | None) -> EngineNetwork:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file that prernn export wrote, found none")
    able = FILES[path.suffix]
    if engine not in (None, "auto", *able):
        raise ValueError(f"{path}: expected engine {' or '.join(able)} for such a file, got {engine}")
    chosen = engine if engine in able else able[0]
    asked = precision or "float32"
    if chosen == "torch":
        program, description = _program(path, asked, threads)
        runner = program_runner(program, description)
    elif chosen == "onnxruntime":
        check_engine(chosen, asked)
        session, description = onnxruntime_engine.described(path, threads)
        asked = _of_its_own(path, description, precision)
        runner = onnxruntime_engine.runner(session)
    else:
        check_engine(chosen, asked)
        model, description = openvino_engine.described(path)
        asked = _of_its_own(path, description, precision)
        if len(model.inputs) != 1 + len(description.states):
            raise ValueError(f"{path}: expected a state that is passed in, got a stateful file, for OpenVINO only")
        runner = openvino_engine.runner(model, asked, threads)
    if description.kind != "step":
        raise ValueError(f"{path}: expected a file of a step, got one of a {description.kind}: export --kind step")
    return EngineNetwork(description, lambda shape: runner, chosen, asked)


def _of_its_own(path: Path, description: Description, precision: str | None) -> str:
    """The precision of a file: integers stay integers, and floats stay floats."""
    if precision is not None and "int8" in (precision, description.precision) and precision != description.precision:
        raise ValueError(f"{path}: expected precision {description.precision}, which the file has, got {precision}")
    return description.precision if precision is None else precision


def _program(path: Path, precision: str, threads: int | None) -> tuple[torch.nn.Module, Description]:
    if precision != "float32":
        raise NotImplementedError(f"{path}: expected precision float32 of a torch program, got {precision}")
    if threads is not None:
        torch.set_num_threads(threads)
    return load_torch(path)
