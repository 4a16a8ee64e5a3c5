"""``prernn fit``, ``validate``, ``test`` and ``predict``, which are Lightning's."""

FIT_COMMANDS = ("fit", "validate", "test", "predict")


def _add_fit_commands(commands) -> None:
    # listed for the help text alone: main hands these to LightningCLI
    for name, text in zip(
        FIT_COMMANDS,
        ("train a network", "evaluate on validation videos", "evaluate on test videos", "label the test videos"),
        strict=True,
    ):
        commands.add_parser(name, help=f"{text}: prernn {name} --config FILE", add_help=False)
