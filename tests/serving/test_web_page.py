"""The page: what a server gives a browser, and what a folder for a static host holds."""

import json
from dataclasses import replace

import httpx
import pytest
import torch

import prernn
from equations import close
from prernn import client
from prernn.commands.main import main
from prernn.conversion.recipe import KeptTask
from prernn.serving.messages.activity import Activity
from prernn.serving.page.static import RUNTIME_FILES, write_static
from prernn.streaming.stream import Stream
from served import jpeg, served
from streamed_networks import LABELS, NETWORKS, SPEC, network, pictures

PARTS = {"index.html", "style.css"} | {
    f"{name}.js" for name in ("browser", "main", "network", "server", "source", "transform", "view", "worker")
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run") / "model.safetensors")


def saved(path, **recipe):
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", outputs=5).eval()
    net.recipe = replace(net.recipe, **{"transform": SPEC | {"size": 16}, "labels": LABELS, **recipe})
    prernn.save(net, path)
    return path


@pytest.fixture
def runtime(tmp_path):
    """Files of the runtime's names."""
    folder = tmp_path / "node_modules"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME_FILES:
        (folder / "dist" / name).write_text(name)
    return folder


def test_the_page_is_where_it_is_asked_for():
    with served(network().float(), page=True, token="sesame") as (address, _):
        answers = {name: httpx.get(f"http://{address}/{name}") for name in ("", *PARTS)}
        about = httpx.get(f"http://{address}/about.json").json()
        assert httpx.get(f"http://{address}/healthz").json()["status"] == "ok"
        assert httpx.get(f"http://{address}/../routes.py").status_code == 404
    assert {answer.status_code for answer in answers.values()} == {200}
    assert "script-src 'self'" in answers[""].text
    assert "<script>" not in answers[""].text
    assert "style=" not in answers[""].text
    assert answers["main.js"].headers["content-type"].startswith("text/javascript")
    assert answers["main.js"].headers["x-content-type-options"] == "nosniff"
    assert about == {"runs": "server", "task": "action", "token": True, "fps": None, "most_fps": 60.0}
    with served(network().float()) as (address, _):
        assert httpx.get(f"http://{address}/").status_code == 404
        assert httpx.get(f"http://{address}/about.json").status_code == 404


@pytest.mark.parametrize("name", NETWORKS)
def test_activity_is_that_of_the_states(name):
    """Level and change of each layer's h, from the first frame on; of a frame-wise network none."""
    net = NETWORKS[name]().float()
    stream, look = Stream(net), Activity(3)
    before = dict.fromkeys(net.state_names, torch.zeros(()))
    assert look([stream]) == []
    for _ in range(3):
        stream(torch.randn(net.frame_shape))
        state = stream.state_dict()
        found = look([stream])
        assert [layer["name"] for layer in found] == [key for key in net.state_names if key.endswith("_h")]
        for layer in found:
            h = state[layer["name"]]
            for kind, values in (("level", h), ("change", h - before[layer["name"]])):
                groups = values[0].abs().tensor_split(3)
                close(torch.tensor(layer[kind]), torch.stack([group.mean() for group in groups]), atol=1e-4, rtol=0)
        before = state


def test_activity_comes_with_answers():
    net = network().float()
    shown = [jpeg(picture) for picture in pictures(3)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", activity=4) as stream:
        first = stream.ask(shown[0])["activity"]
        second = stream.ask(shown[1])["activity"]
        stream.order(type="reset")
        assert stream.receive()["type"] == "reset"
        assert stream.ask(shown[0])["activity"] == first
    assert [layer["name"] for layer in first] == ["state_0_h"]
    assert len(first[0]["level"]) == 4
    assert first[0]["level"] == first[0]["change"]  # from zero
    assert second[0]["level"] != second[0]["change"]


def test_of_gestures_the_labels_come_with_answers_too():
    net = network().float()
    options = {"decoder": "greedy", "decoder_options": {}}
    net.recipe = replace(net.recipe, task=KeptTask("gesture", options))
    shown = pictures(3)
    stream_alone = Stream(net)
    raw = {"frames": "rgb", "width": 24, "height": 20}
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", top=2, **raw) as stream:
        answers = [stream.ask(picture) for picture in shown]
    for answer, picture in zip(answers, shown, strict=True):
        expected = stream_alone.probabilities(picture)
        assert answer["top"][0] == [LABELS[int(expected.argmax())], pytest.approx(float(expected.max()), abs=2e-4)]
        assert len(answer["top"]) == 2


def test_a_folder_for_a_static_host(checkpoint, runtime, tmp_path, capsys):
    folder = tmp_path / "site"
    assert main(["web", str(checkpoint), "--static", str(folder), "--runtime", str(runtime)]) == 0
    assert "written" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {*PARTS, "about.json", "step.onnx", "runtime"}
    assert {path.name for path in (folder / "runtime").iterdir()} == set(RUNTIME_FILES)
    about = json.loads((folder / "about.json").read_text())
    assert (about["runs"], about["labels"], about["states"]) == (
        "browser",
        LABELS,
        [{"name": "state_0_h", "shape": [16]}],
    )
    assert about["transform"]["size"] == 16


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"task": KeptTask("face", {"margin": 0.2})}, "expected a run of the task action, got face"),
        ({"task": KeptTask("action", {"stream": "flow"})}, "expected a network of single frames in color"),
        ({"labels": None}, "expected a run with labels and a transform"),
    ],
)
def test_what_the_browser_does_not_know_is_refused(recipe, message, runtime, tmp_path):
    path = saved(tmp_path / "model.safetensors", **recipe)
    with pytest.raises(NotImplementedError, match=message):
        write_static(path, tmp_path / "site", runtime=runtime)
    assert not (tmp_path / "site").exists()


def test_mistakes_of_the_command_are_one_line(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    static = ["--static", str(tmp_path / "site")]
    for options, message in (
        (["--runtime", "."], "--runtime: expected --static DIR with it"),
        ([str(checkpoint), *static], "--static: expected one run, got 2"),
        ([*static, "--runtime", str(tmp_path)], "expected ort.wasm.bundle.min.mjs and ort-wasm"),
        (static, "install npm, or unpack that package and give --runtime DIR"),
    ):
        assert main(["web", str(checkpoint), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


def test_npm_that_fails_says_why(tmp_path, monkeypatch):
    from prernn.serving.page import static

    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error no network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: str(npm))
    with pytest.raises(ImportError, match="npm could not fetch \\(npm error no network\\)"):
        static.runtime_files(None)
