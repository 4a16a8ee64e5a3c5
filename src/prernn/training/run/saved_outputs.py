"""A network's outputs for each test video, as a file; and the mean of several networks' answers (late fusion)."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prernn.conversion.recipe import Recipe
from prernn.reports.files import whole_file

FILE_NAME = "outputs.safetensors"


class Outputs:
    """Outputs and annotation of videos.

    Attributes:
        items: for each video a dict with ``path``, ``out (T, K)`` and what `Task.read` returned, without the video.
    """

    def __init__(self, items: Iterable[dict[str, Any]] = ()) -> None:
        self.items = list(items)

    def add(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch's outputs ``(B, T, K)``; padding of the batch is cut off."""
        lengths = batch["lengths"].tolist()
        names = [name for name in batch if name not in ("input", "lengths", "skipped")]
        for row, steps in enumerate(lengths):
            own = {name: _row(batch[name], row, steps, max(lengths)) for name in names}
            self.items.append({"out": out[row, :steps].cpu().float(), **own})

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """The outputs of several processes, in the order of their paths."""
        return cls(sorted((item for part in parts for item in part.items), key=place_of))

    def save(self, folder: Path, recipe: Recipe) -> Path:
        """Writes ``outputs.safetensors`` with the network's recipe; complete or not at all."""
        tensors: dict[str, Tensor] = {}
        plain = []
        for number, item in enumerate(self.items):
            parts = {name: value for name, value in item.items() if isinstance(value, Tensor)}
            tensors |= {f"{number}/{name}": value.contiguous() for name, value in parts.items()}
            plain.append({name: value for name, value in item.items() if name not in parts})
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE_NAME) as part:
            save_file(tensors, part, metadata={"items": json.dumps(plain), "recipe": json.dumps(recipe.to_json())})
        return folder / FILE_NAME

    @classmethod
    def load(cls, folder: str | Path) -> tuple["Outputs", Recipe]:
        """Reads what `save` wrote: the outputs, and the recipe.

        Raises:
            ValueError: there is no such file, or it has other contents.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder}: expected {FILE_NAME}, found none: run prernn test first")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                items, recipe = json.loads(metadata["items"]), Recipe.from_json(json.loads(metadata["recipe"]))
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    number, _, name = key.partition("/")
                    items[int(number)][name] = file.get_tensor(key)
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise ValueError(f"{path}: expected outputs of prernn test: {error}") from None
        return cls(items), recipe


def place_of(item: dict[str, Any]) -> tuple[str, int]:
    """The video of an item, and which clip of it."""
    return item["path"], item.get("view", 0)


def _row(value: Any, row: int, steps: int, longest: int) -> Any:
    if not isinstance(value, Tensor):
        return value[row]
    if value.ndim == 1:
        return int(value[row])
    return value[row, :steps].cpu() if value.shape[1] == longest else value[row].cpu()
