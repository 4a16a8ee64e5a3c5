"""``prernn serve`` as a process, for tests."""

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import replace

import prernn
from streamed_networks import SPEC


def saved_network(folder):
    """A small network in a file, and the network."""
    net = prernn.convert(prernn.backbone("small_vgg", width=2, units=16, size=16), "fc6", cell="gru", outputs=5).eval()
    net.recipe = replace(net.recipe, transform=SPEC | {"size": 16}, labels=[str(label) for label in range(5)])
    prernn.save(net, folder / "model.safetensors")
    return folder / "model.safetensors", net


@contextlib.contextmanager
def process(checkpoint, *options, port=0):
    command = [sys.executable, "-m", "prernn.commands.main", "serve", str(checkpoint), "--port", str(port), *options]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        line = started.stderr.readline()
        found = re.search(r"serving at (https?)://([\d.]+:\d+)", line)
        assert found, line + started.stderr.read()
        assert f"(clients: {'wss' if found[1] == 'https' else 'ws'}://{found[2]}/stream" in line
        yield found[2], started
    finally:
        started.kill()
        started.wait(30)
        started.stderr.close()
