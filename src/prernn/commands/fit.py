"""``prernn fit``, ``validate``, ``test`` and ``predict``, which are Lightning's."""

import itertools
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from prernn.commands.arguments.command import Command, Parser, given
from prernn.commands.arguments.complaints import in_plain_words
from prernn.commands.arguments.fit_options import check_options, help_text

ALL = ("--help-all", "--help=all")
"""Options that ask for Lightning's own help."""


def run(options: Namespace) -> None:
    """Passes the words after the command on to Lightning, after checking the option names among them."""
    run_fit(options.command, options.words)


def run_fit(command: str, words: Sequence[str]) -> None:
    """Runs ``fit`` or a related command with its arguments."""
    if any(word in ("-h", "--help") for word in words):
        print(help_text(command, FIT_COMMANDS[command].help))
        return
    if command == "test" and "--continuous" in words:
        _test_continuously(words)
        return
    if command == "predict" and any(word.partition("=")[0] == "--text" for word in words):
        _write(words)
        return
    if command == "predict" and any(word.partition("=")[0] == "--ray" for word in words):
        _predict_over_ray(words)
        return
    if command != "fit" and words and Path(words[0]).is_dir():  # a run, whose configuration holds the rest
        words = ["--config", str(Path(words[0]) / "config.yaml"), *words[1:]]
    elif command != "fit" and words and not words[0].startswith("-"):
        raise ValueError(f"{words[0]}: expected a run folder with its config.yaml, found none")
    words, engine = _engine_in(words) if command in ("test", "predict") else (words, {})
    check_options(command, words)
    from prernn.training import lightning_cli

    callbacks = []
    if engine:
        from prernn.training.engine import InEngine

        callbacks = [InEngine(**engine)]
    with in_plain_words():
        lightning_cli.main([command, *("--help" if word in ALL else word for word in words)], callbacks)


def _engine_in(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without ``--engine`` and ``--precision``, and the values of these."""
    parser = Parser("prernn test or predict", add_help=False, allow_abbrev=False)
    parser.passes_on = True
    parser.add_argument("--engine")
    parser.add_argument("--precision")
    options = parser.parse_args(words)
    found = given(options, "engine", "precision")
    if found and "engine" not in found:
        raise ValueError("--precision: expected an --engine with it")
    return options.words, found


def _test_continuously(words: Sequence[str]) -> None:
    """``prernn test RUN --continuous``: tests on the test videos as one stream."""
    parser = Parser("prernn test", description="test on the test videos as one stream whose state is never reset")
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder or checkpoint")
    add("--continuous", action="store_true", required=True, help="this test")
    add("--out", help="folder for continuous.json, .csv and .png (default: the run's)")
    add("--orders", type=int, help="number of random orders of the test videos")
    add("--rates", type=float, nargs="+", help="frame rates, as multiples of the rate tested at")
    add("--still", type=int, help="number of frames for which a picture stands still")
    add("--seed", type=int, help="seed of the orders")
    options = parser.parse_args(words)
    from prernn.studies.runs.continuous import run_continuously

    run_continuously(options.run, options.out, **given(options, "orders", "rates", "still", "seed"))


def _predict_over_ray(words: Sequence[str]) -> None:
    """``prernn predict RUN --ray ADDRESS``: predicts on the workers of a Ray cluster."""
    parser = Parser("prernn predict", description="label the test videos on many machines")
    parser.passes_on = True
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--ray", required=True, help="address of a Ray cluster, auto, or local for this machine")
    parser.add_argument("--workers", type=int, help="workers at a time (default: one per core of the cluster)")
    options = parser.parse_args(words)
    check_options("predict", options.words)
    run = Path(options.run)
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: expected a run folder with its config.yaml, found none")
    from prernn.studies.runs.over_ray import predict_over_ray

    with in_plain_words():
        path = predict_over_ray(run, options.words, options.ray, options.workers)
    print(f"written: {path}")


def _write(words: Sequence[str]) -> None:
    """``prernn predict RUN --text WORDS``: continues the words with a language model."""
    parser = Parser("prernn predict", description="continue a text with a network that was trained on text")
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder or checkpoint")
    add("--text", required=True, help="words to continue from; may be empty")
    add("--words", type=int, default=100, help="number of words to write (default %(default)s)")
    add("--temperature", type=float, default=1.0, help="0 always takes the most probable word (default 1)")
    add("--seed", type=int, default=0, help="seed of the draws (default 0)")
    options = parser.parse_args(words)
    from prernn.layers.arguments import whole
    from prernn.models.checkpoint import load
    from prernn.tasks.language.generation import written
    from prernn.tasks.language.text import END

    count, begin = whole("--words", options.words), options.text.split()
    text = written(load(options.run), begin, temperature=options.temperature, seed=options.seed)
    print(" ".join(begin), end=" " if begin else "", flush=True)
    for word in itertools.islice(text, count):
        print("\n" if word == END else f"{word} ", end="", flush=True)
    print()


FIT_COMMANDS = {
    "fit": Command("train a network", run),
    "validate": Command("evaluate on validation videos", run),
    "test": Command("evaluate on test videos; --engine ENGINE", run),
    "predict": Command(
        "label the test videos; --engine ENGINE; --ray ADDRESS: many machines; --text WORDS: continue a text", run
    ),
}
