"""The common frame rate of a data set's videos, at which a network trained on them runs in a stream."""

from collections.abc import Sequence

from prernn.media.sampling import Sampling, same_rate
from prernn.media.video import VideoError, locate, probe

PROBED = 5
"""Number of videos to check, evenly over the list: opening one takes milliseconds, and there may be thousands."""


def common_rate(paths: Sequence[str]) -> float | None:
    """Frames a second of the videos, checked for five of them; None if they differ by more than 2 %.

    Videos that can't be read are skipped, and a folder of frames has no time stamps: if one is among the five, or if
    none can be read, the result is None.
    """
    different = list(dict.fromkeys(paths))
    count = min(PROBED, len(different))
    rates = []
    for place in range(count):
        path = different[place * len(different) // count]
        try:
            if locate(path).kind == "folder":
                return None
            rates.append(probe(path).fps)
        except VideoError:
            continue
    return rates[0] if rates and all(same_rate(rate, rates[0]) for rate in rates) else None


def sampled_rate(sampling: Sampling, paths: Sequence[str]) -> float | None:
    """Frames a second of the clips that ``sampling`` takes from videos: its own, or theirs divided by its stride.

    None if clips have no common rate: for the rules "uniform" and "random", which take as many frames from a long video
    as from a short one, unless they state the rate they take frames from; and if the videos have none in common.
    """
    if sampling.fps is not None:
        return sampling.fps / sampling.stride
    if sampling.rule not in ("consecutive", "all"):
        return None
    own = common_rate(paths)
    return None if own is None else own / sampling.stride
