"""Videos that several studies are tried on."""

import numpy as np
import pytest

from prernn.media.encoding import write_video


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder a class: noise that grows brighter, and noise that grows darker."""
    root = tmp_path_factory.mktemp("videos")
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("brighter", "darker")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([label, number]).integers(0, 40, (32, 32, 3))
                steps = np.linspace(40, 200, 6)[:: 1 - 2 * label]
                write_video(folder / f"{number}.mp4", [(step + noise).astype(np.uint8) for step in steps], 6)
    return root
