"""The options of each benchmark, by name, separate from the timed code, so that help needs no torch."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable


def cifar_online(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench cifar_online``."""
    add = parser.add_argument
    add("--data", help="folder with pictures (.npz), for ResNets also resnet<depth>*.th; not needed for --layers")
    add("--network", choices=("resnet", "vgg16"), default="resnet", help="trained ResNets, or a VGG16 trained here")
    add("--depths", type=int, nargs="+", default=[20, 32, 44, 56], help="depths of ResNets (default: 20 32 44 56)")
    add("--weights", metavar="FILE", help="VGG16: file of its weights, trained if missing (default: in --out)")
    add("--width", type=count, default=64, help="channels of VGG16's first convolution (default %(default)s)")
    add("--epochs", type=count, default=40, help="epochs of its training (default %(default)s)")
    add("--rate", type=float, default=0.05, help="learning rate (default %(default)s)")
    add("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5, 1], help="samples per activation")
    add("--linear", type=float, help="samples per activation of dense layers (default: all; VGG16 0.05)")
    values = ("keep", "estimate", "count")
    add("--values", choices=values, default="keep", help="values of drawn activations (default %(default)s)")
    parts = ("activation", "channel", "place")
    add("--per", choices=parts, default="activation", help="what is drawn from a map (default %(default)s)")
    add("--seeds", type=int, default=5, help="number of seeds (default %(default)s)")
    add("--pictures", type=int, metavar="N", help="only the first N (default: all)")
    add("--layers", action="store_true", help="only time single layers")
    sampled = "only keep shares of the weights of VGG16's dense layers, on sampled paths"
    add("--sampled", type=float, nargs="+", default=[], metavar="SHARE", help=sampled)
    add("--own-time", action="store_true", help="count only the thread's own time; requires --threads 1")
    add("--threads", type=int, default=1, metavar="N", help="torch threads (default %(default)s)")
    add("--repeats", type=int, default=30, help="maximum number of timed pictures of a network (default %(default)s)")
    add("--out", default="runs/bench-cifar-online", help="folder for tables, CSV and PNG (default %(default)s)")


def cifar_quantize(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench cifar_quantize``."""
    add = parser.add_argument
    add("--data", required=True, help="folder with an .npz of test_x and test_y, and with the networks' weights")
    add("--depths", type=int, nargs="+", default=[20, 32, 44, 56], help="depths of ResNets (default: 20 32 44 56)")
    add("--samples", type=float, default=1.15, help="samples per weight in the tables (default %(default)s)")
    add(
        "--sweep",
        type=float,
        nargs="*",
        default=[0.5, 0.75, 1, 1.15, 1.35, 1.6, 2, 3, 4, 8],
        help="samples per weight in the curves",
    )
    add(
        "--samplers",
        nargs="+",
        default=["systematic", "jittered", "sobol", "random"],
        help="default: all",
    )
    add("--draws", type=int, default=20, help="draws for the table (default %(default)s)")
    add("--sweep-draws", type=int, default=5, help="draws for the curves (default %(default)s)")
    add("--bits", type=int, nargs="*", default=[2, 3, 4, 5, 6], help="bits for rounding to nearest")
    kinds = ["table", "part", "curve", "rounding", "inputs"]
    add("--kinds", nargs="*", choices=kinds, default=kinds, help="kinds of measurements (default: all)")
    add("--methods", nargs="+", default=[], help="only methods whose names contain one of these (default: all)")
    add(
        "--inputs",
        type=int,
        default=64,
        help="number of inputs made from each network for corrections (default %(default)s)",
    )
    add("--files", action="store_true", help="also files in 8-bit integers: accuracy, size and time in each engine")
    add("--own-time", action="store_true", help="time pictures in the process's own time, without other processes")
    add("--threads", type=int, default=2, help="torch threads (default %(default)s)")
    add("--out", default="runs/bench-cifar-quantize", help="folder for tables, CSV and PNG (default %(default)s)")


def faces(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench faces``."""
    add = parser.add_argument
    add("--root", required=True, help="data in 300VW's folders; one picture of each video is used")
    add(
        "--weights", required=True, help="weights of the initial frame-wise network: a run, or face_landmarks' manifest"
    )
    add("--backbone", choices=("small_vgg", "face_landmarks"), default="small_vgg", help="default %(default)s")
    add("--base", type=int, choices=(0, 1), default=1, help="coordinate of the first pixel (default %(default)s)")
    add("--epochs", type=int, default=12, help="epochs of every training (default %(default)s)")
    add("--passes", type=int, default=3, help="number of paths of each training picture (default %(default)s)")
    add("--train-frames", type=int, default=32, help="frames of a training clip (default %(default)s)")
    add("--frames", type=int, default=200, help="frames of a test clip, 25 a second (default %(default)s)")
    add("--faces", type=int, default=40, help="number of test faces followed as streams (default %(default)s)")
    add("--noise", type=float, default=5.0, help="standard deviation of camera noise, out of 255 (default %(default)s)")
    add("--motion-weight", type=float, default=10.0, help="weight of motion in the loss (default %(default)s)")
    add("--rate", type=float, default=0.03, help="learning rate (default %(default)s)")
    add("--batch-size", type=int, default=16, help="clips per batch (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--only", nargs="+", default=[], help="only networks whose names contain one of these (default: all)")
    add("--clip", help="also follow the face in this video, which has no annotation")
    add("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    add("--out", default="runs/bench-faces", help="folder for tables, CSV and PNG (default %(default)s)")


def mnist_paths(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench mnist_paths``."""
    add = parser.add_argument
    add(
        "--data", required=True, help="folder with mnist.npz (train_x, train_y, test_x, test_y, uint8), or another .npz"
    )
    networks = ("perceptron", "convolutions")
    add("--network", choices=networks, default=networks[0], help="for digits, or for color pictures")
    add("--widths", type=int, nargs="+", help="neurons or channels (default: 784 300 300 10, or 32 64 128 256)")
    add(
        "--paths",
        type=int,
        nargs="+",
        default=[2**k for k in range(5, 19)],
        help="numbers of paths (default: 32, 64 .. 262144)",
    )
    of_paths = "+alternating, +constant, +mixed, +init=W, +gray, +scramble, +skip=N, +least=N"
    names = f"sobol, random ({of_paths}), dense (+dropout=P, +dropconnect=P)"
    add("--samplers", nargs="+", default=["sobol", "random", "dense"], help=f"{names}; default: all three")
    why = "train no classifier: count what paths connect, and analyze the autoencoder's code"
    add("--diagnosis", action="store_true", help=why)
    add("--steps", type=float, nargs="+", default=[], help="step sizes h of residual layers (default: none)")
    add(
        "--sampled", type=float, nargs="+", default=[], metavar="SHARE", help="shares of dense weights on sampled paths"
    )
    add("--pictures", type=int, default=0, help="train on only the first N; 0: all (default %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    add("--epochs", type=int, default=10, help="epochs of every training (default %(default)s)")
    add("--rate", type=float, default=5e-3, help="learning rate (default %(default)s)")
    add("--code", type=int, nargs="+", default=[784, 256, 64, 256, 784], help="widths of the autoencoder")
    add("--code-paths", type=int, default=16384, help="its paths; 0: no autoencoder (default %(default)s)")
    add("--jobs", type=int, default=2, help="trainings at a time, one thread each (default %(default)s)")
    add("--out", default="runs/bench-mnist-paths", help="folder for tables, CSV and PNG (default %(default)s)")


def paths(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench paths``."""
    add = parser.add_argument
    add(
        "--size",
        type=int,
        default=1024,
        help="width D of the layer with varying numbers of paths (default %(default)s)",
    )
    add(
        "--paths", type=int, nargs="+", default=None, metavar="P", help="numbers of paths (default: 512, 1024 .. D*D/2)"
    )
    sizes = [256, 512, 1024, 2048, 4096]
    add("--sizes", type=int, nargs="+", default=sizes, metavar="D", help="widths (default: 256, 512 .. 4096)")
    add("--each", type=int, default=16, help="paths per neuron with varying widths (default %(default)s)")
    add("--batches", type=int, nargs="+", default=[1, 64], metavar="B", help="rows of a batch (default: 1 64)")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="torch threads (default: 1 2)")
    add("--repeats", type=int, default=50, help="maximum number of timed calls (default %(default)s)")
    add("--maps", action="store_true", help="only time convolutions made of paths")
    shares = [1 / 64, 1 / 16, 1 / 8, 1 / 4]
    add(
        "--shares",
        type=float,
        nargs="+",
        default=shares,
        help="shares of their pairs of channels (default: 1/64 .. 1/4)",
    )
    add("--own-time", action="store_true", help="count only the thread's own time; requires --threads 1")
    add("--out", default="runs/bench-paths", help="folder for tables, CSV and PNG (default %(default)s)")


def rcn(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench rcn``."""
    add = parser.add_argument
    add("--backbone", default="resnet18", help="2-D network (default %(default)s)")
    add("--hidden", nargs="+", default=["full", "band:5%", "diagonal"], help="structures of W_hh")
    add("--clips", nargs="*", default=["r3d_18", "mc3_18", "r2plus1d_18"], help="3-D networks (default: all three)")
    add("--size", type=int, default=112, help="side of the frame in pixels (default %(default)s)")
    add("--window", type=int, default=16, help="frames of a 3-D network's window (default %(default)s)")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="torch threads (default: 1 2)")
    add("--repeats", type=int, default=30, help="maximum number of timed frames of a network (default %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", default="runs/bench-rcn", help="folder for tables, CSV and PNG (default %(default)s)")


def recurrence(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench recurrence``."""
    add = parser.add_argument
    add("--threads", type=count, nargs="+", default=[1, 2], metavar="N", help="torch threads (default: 1 2)")
    add("--shapes", type=shape, nargs="+", metavar="TxBxD", help="steps, batch, neurons (default: the table's)")
    cells = ("lstm", "gru", "vrnn")
    add("--cells", nargs="+", choices=cells, metavar="CELL", help=f"{', '.join(cells)} (default: all, LSTM in full)")
    add("--repeats", type=count, default=50, help="maximum number of timed calls of a candidate (default %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--sizes", type=count, nargs="+", metavar="D", help="neurons of the three tables below")
    add("--growth", action="store_true", help="how time grows with D; other tables only on request")
    add("--linear", action="store_true", help="operators of the input projection")
    add("--rows", action="store_true", help="compare compressed rows with a dense product")
    add("--inputs", action="store_true", help="layers with each structure of their input weights")
    add("--out", default="runs/bench", help="folder for tables, CSV and PNG (default %(default)s)")


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def regularization(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench regularization``."""
    add = parser.add_argument
    add("--root", default="runs/demo", help="folder of a demo, whose videos are used (default %(default)s)")
    add("--few", type=int, default=10, help="training clips per class (default %(default)s)")
    add("--ways", nargs="+", help="ways to train, by name (default: all)")
    add("--epochs", type=int, default=30, help="epochs of every training (default %(default)s)")
    add("--rate", type=float, default=0.6, help="learning rate (default %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    add("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    add("--out", default="runs/bench-regularization", help="folder for tables and CSV (default %(default)s)")


def sequences(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench sequences``."""
    add = parser.add_argument
    add("--parts", nargs="+", choices=("long", "training"), default=["long", "training"], help="default: both")
    shapes = [(1000, 1, 400), (1000, 64, 400), (10_000, 1, 400), (10_000, 16, 400), (100_000, 1, 400)]
    add("--shapes", type=shape, nargs="+", metavar="TxBxD", default=shapes, help="shapes of long sequences")
    add("--words", type=count, default=10_000, help="vocabulary of the network of words (default %(default)s)")
    add("--threads", type=count, default=1, metavar="N", help="torch threads (default %(default)s)")
    add("--repeats", type=count, default=10, help="maximum number of timed calls of a candidate (default %(default)s)")
    add("--out", default="runs/bench-sequences", help="folder for tables and CSV (default %(default)s)")


def shape(text: str) -> tuple[int, int, int]:
    """Steps, batch and neurons, as in ``16x8x2048``."""
    numbers = text.split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise ArgumentTypeError(f"expected TxBxD as in 16x8x2048, got {text!r}")
    steps, batch, size = map(int, numbers)
    return steps, batch, size


def serve(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench serve``."""
    add = parser.add_argument
    names = ["efficientnet_lite0", "mobilenet_v3_small"]
    add("--backbones", nargs="+", default=names, help="backbones of PreGRU-SIH (default: Lite0 and MobileNetV3)")
    add(
        "--sizes",
        type=count,
        nargs="+",
        default=[112, 224],
        metavar="N",
        help="sides of the frame in pixels (default: 112 224)",
    )
    steps = [1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64]
    add(
        "--streams",
        type=count,
        nargs="+",
        default=steps,
        metavar="N",
        help="numbers of streams to try in turn, until one does not hold",
    )
    add("--fps", type=float, default=15.0, help="frames per second of a camera (default %(default)s)")
    add("--seconds", type=float, default=10.0, help="seconds that cameras film (default %(default)s)")
    add("--hostile", type=float, default=0.1, help="hostile clients per camera (default %(default)s)")
    add("--rounds", type=int, default=3, help="rounds without and with hostile clients, in turn (default %(default)s)")
    add("--engine", default="auto", help="engine of the server (default %(default)s)")
    add("--precision", default="float32", help="precision of the server (default %(default)s)")
    add("--out", default="runs/bench-serve", help="folder for tables and CSV (default %(default)s)")


def sparsity(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench sparsity``."""
    add = parser.add_argument
    add("--clips", type=int, default=140, help="training clips per class (default %(default)s)")
    add("--epochs", type=int, default=5, help="epochs of each network (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--band", default="band:1%", help="band structure (default %(default)s)")
    add("--paths", default="paths:13", help="path structure (default %(default)s, as many weights as the band)")
    add(
        "--samples",
        type=float,
        nargs="+",
        default=[2, 4],
        help="samples per weight of the table's networks (default: 2 4)",
    )
    add("--sweep", type=float, nargs="*", default=[0.5, 1, 1.5, 2, 3, 4], help="samples per weight in the curve")
    add("--sweep-draws", type=int, default=1, help="draws for the curve over samples (default %(default)s)")
    add("--bits", type=int, nargs="*", default=[], help="bits for rounding to nearest in the curve (default: none)")
    add("--rates", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.3, 0.5], help="shares of activations in the curve")
    add("--start", nargs="+", default=["1"], help="layers, by name or number, from which on activations are sampled")
    add("--test-clips", type=int, help="number of test clips, spread over the classes (default: all)")
    parts = ["table", "files", "curves"]
    add("--parts", nargs="+", choices=parts, default=parts, help="what is measured (default: all)")
    add("--own-time", action="store_true", help="time frames in the process's own time, without other processes")
    add("--trained", metavar="FOLDER", help="use the networks of an earlier run with the table instead of training")
    add("--threads", type=int, default=2, help="torch threads (default %(default)s)")
    add("--out", default="runs/bench-sparsity", help="folder for data, tables, CSV and PNG (default %(default)s)")


def streaming(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench streaming``."""
    add = parser.add_argument
    names = ["efficientnet_lite0", "mobilenet_v3_small", "resnet18", "resnet50"]
    add(
        "--backbones",
        nargs="+",
        default=names,
        help="backbones of PreGRU-SIH (default: Lite0, MobileNetV3, ResNet18 and 50)",
    )
    clips = ["r3d_18", "r2plus1d_18", "s3d", "mvit_v2_s"]
    add("--clips", nargs="*", default=clips, help="clip networks to compare with (default: four)")
    add("--clip-engines", action="store_true", help="run clip networks in the engines too")
    add("--size", type=count, default=224, help="side of the frame in pixels (default %(default)s)")
    add("--window", type=count, default=16, help="frames of a clip network's window (default %(default)s)")
    add(
        "--threads",
        type=count,
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="threads that compute a frame (default: 1 2)",
    )
    add("--repeats", type=count, default=30, help="maximum number of timed frames (default %(default)s)")
    add("--flat", type=count, metavar="N", help="run N frames in each engine to see whether time or memory grows")
    add("--memory", action="store_true", help="measure the peak memory of a process for each engine")
    add("--out", default="runs/bench-streaming", help="folder for tables, CSV and PNG (default %(default)s)")


def low_precision(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench low_precision``."""
    add = parser.add_argument
    add("--size", type=count, default=2048, help="units and inputs (default %(default)s)")
    add(
        "--batches",
        type=count,
        nargs="+",
        default=[1, 4],
        metavar="N",
        help="numbers of parallel streams (default: 1 4)",
    )
    structures = ["full", "grouped:4", "band:5%", "diagonal", "sparse:0.1", "paths:8"]
    add(
        "--structures",
        nargs="+",
        default=structures,
        help=f"of W_hh (default: {' '.join(structures)})".replace("%", "%%"),
    )
    add("--threads", type=count, default=1, help="torch threads (default %(default)s)")
    add("--own-time", action="store_true", help="count only the thread's own time; requires --threads 1")
    add("--repeats", type=count, default=50, help="maximum number of timed steps (default %(default)s)")
    add("--out", default="runs/bench-low-precision", help="folder for tables, CSV and PNG (default %(default)s)")


def training(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench training``."""
    add = parser.add_argument
    add("--backbone", default="efficientnet_lite0", help="backbone of PreGRU-SIH (default %(default)s)")
    add("--also", nargs="*", default=["r3d_18"], help="clip networks to compare with (default: r3d_18)")
    add("--clips", type=int, default=8, help="clips per batch (default %(default)s)")
    add("--frames", type=int, default=16, help="frames of a clip (default %(default)s)")
    add("--size", type=int, default=224, help="side of the frame in pixels (default %(default)s)")
    add("--steps", type=int, default=3, help="timed steps per training (default %(default)s)")
    add("--rounds", type=int, default=2, help="trainings of each way (default %(default)s)")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="torch threads (default: 1 2)")
    add("--out", default="runs/bench-training", help="folder for tables and CSV (default %(default)s)")


OPTIONS: dict[str, Callable[[ArgumentParser], None]] = {
    "cifar_online": cifar_online,
    "cifar_quantize": cifar_quantize,
    "faces": faces,
    "low_precision": low_precision,
    "mnist_paths": mnist_paths,
    "paths": paths,
    "rcn": rcn,
    "recurrence": recurrence,
    "regularization": regularization,
    "sequences": sequences,
    "serve": serve,
    "sparsity": sparsity,
    "streaming": streaming,
    "training": training,
}
"""The functions that add the options of each benchmark, by its name."""
