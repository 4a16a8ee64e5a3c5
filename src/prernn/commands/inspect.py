"""``prernn inspect``: the weights that recurrence introduces into a backbone."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn inspect``."""
    parser.add_argument("backbone", help="name of torchvision or timm, or c3d, efficientnet_lite0")
    parser.add_argument("--layer", nargs="+", help="layers that become recurrent (default: the last)")
    parser.add_argument("--cell", nargs="+", default=["vrnn", "lstm", "gru"], help="default: all")
    parser.add_argument("--input", nargs="+", default=["gate", "single"], help="default: both")
    parser.add_argument("--hidden", nargs="+", default=["full"], help="structures of W_hh (default: full)")
    parser.add_argument("--rcn", action="store_true", help="as RCN: its units, with their state and cost per frame")
    parser.add_argument("--size", type=int, help="RCN: side of the frame (default: what the backbone expects)")
    parser.add_argument(
        "--num-layers", type=int, default=1, help="number of layers of the traditional RNN to compare with"
    )
    parser.add_argument("--outputs", type=int, help="size of a new output layer")


def run(options: Namespace) -> None:
    """Prints the tables."""
    from prernn.studies.costs import show, show_rcn

    name, layer, common = options.backbone, options.layer, {"hiddens": options.hidden, "outputs": options.outputs}
    if options.rcn:
        show_rcn(name, layer, size=options.size, **common)
    else:
        show(name, layer, cells=options.cell, inputs=options.input, num_layers=options.num_layers, **common)


INSPECT = Command("show the weights that recurrence introduces into a backbone", run, add_arguments)
