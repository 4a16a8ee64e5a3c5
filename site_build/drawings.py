"""The drawings of the concepts, as SVG that reads on light and on dark: ``python site_build/drawings.py``."""

from collections.abc import Callable
from pathlib import Path

import prernn

DOCS = Path(__file__).parent.parent / "docs"
LINE, TEXT = "#76808f", "#6b7585"  # on white and on black alike
KEPT, NEW, PLAIN = ("#cfe3f7", "#3f7fbf"), ("#ffdfb8", "#d9822b"), ("#e4e7ec", "#8a94a3")
INK = "#1d2530"
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
    'font-family="system-ui, sans-serif" font-size="14">\n<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" '
    'markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    f'<path d="M0 0 10 5 0 10z" fill="{LINE}"/></marker></defs>\n'
)


def box(x: float, y: float, w: float, h: float, text: str = "", color: tuple[str, str] = PLAIN) -> str:
    """A rounded box with text in its middle."""
    fill, edge = color
    shape = f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{edge}"/>'
    return shape + (label(x + w / 2, y + h / 2 + 5, text, INK) if text else "")


def label(x: float, y: float, text: str, color: str = TEXT, anchor: str = "middle") -> str:
    """Text; what stands behind an underscore is lower, up to the next blank."""
    parts = []
    for word in text.split(" "):
        base, _, low = word.partition("_")
        parts.append(
            base + (f'<tspan dy="4" font-size="10">{low}</tspan><tspan dy="-4">&#8203;</tspan>' if low else "")
        )
    return f'<text x="{x}" y="{y}" fill="{color}" text-anchor="{anchor}">{" ".join(parts)}</text>'


def arrow(*points: tuple[float, float], color: str = LINE) -> str:
    """A line through the points, with a head at its end."""
    way = " ".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{way}" fill="none" stroke="{color}" stroke-width="1.6" marker-end="url(#a)"/>'


def loop(x: float, y: float, w: float, name: str) -> str:
    """The way of a state from a box's right end over its top back into it."""
    bow = f"M{x + w - 14} {y} C{x + w + 6} {y - 44} {x - 6} {y - 44} {x + 14} {y}"
    line = f'<path d="{bow}" fill="none" stroke="{NEW[1]}" stroke-width="2" marker-end="url(#a)"/>'
    return line + label(x + w / 2, y - 40, name)


def prernn_drawing() -> tuple[int, int, list[str]]:
    """A layer that becomes recurrent, and a stacked RNN."""
    parts = []
    for y, title in ((70, "PreRNN"), (200, "stacked RNN")):
        parts += [
            label(8, y + 27, title, anchor="start"),
            label(122, y + 27, "x_t"),
            arrow((136, y + 22), (160, y + 22)),
        ]
        parts += [box(162, y, 150, 44, "convolutions", KEPT), arrow((312, y + 22), (340, y + 22))]
    parts += [box(342, 70, 150, 44, "layer: W, b", KEPT), loop(342, 70, 150, "W_hh")]
    parts += [arrow((492, 92), (648, 92)), box(650, 70, 90, 44, "outputs", NEW)]
    parts += [box(342, 200, 100, 44, "layer: W, b", KEPT), arrow((442, 222), (468, 222))]
    parts += [box(470, 200, 150, 44, "RNN: W_ih", NEW), loop(470, 200, 150, "W_hh")]
    parts += [arrow((620, 222), (648, 222)), box(650, 200, 90, 44, "outputs", NEW)]
    parts += [box(162, 275, 16, 16, color=KEPT), label(186, 288, "pre-trained", anchor="start")]
    parts += [box(290, 275, 16, 16, color=NEW), label(314, 288, "starts at random", anchor="start")]
    return 760, 300, parts


def sih_drawing() -> tuple[int, int, list[str]]:
    """An input for each gate, and one for all."""
    parts = []
    for left, title, single in ((20, "an input for each gate", False), (400, "one input for all: SIH", True)):
        parts += [label(left + 160, 24, title), box(left, 92, 50, 40, "x_t")]
        if single:
            parts += [arrow((left + 50, 112), (left + 98, 112)), box(left + 100, 92, 70, 40, "W", KEPT)]
        for row, gate in enumerate(("r", "z", "n")):
            y = 40 + 52 * row
            if not single:
                parts += [arrow((left + 50, 112), (left + 98, y + 20)), box(left + 100, y, 70, 40, f"W_{gate}", KEPT)]
            start = (left + 170, 112 if single else y + 20)
            parts += [arrow(start, (left + 238, y + 20)), box(left + 240, y, 80, 40, f"gate {gate}", PLAIN)]
    return 740, 200, parts


def band_drawing() -> tuple[int, int, list[str]]:
    """Masks of structures, as prernn makes them."""
    names, size, cell = ("full", "band:5", "band:3", "ring", "diagonal", "grouped:4", "sparse:0.2", "paths:3"), 12, 12
    parts = []
    for number, name in enumerate(names):
        left, top = 12 + 178 * (number % 4), 12 + 190 * (number // 4)
        mask = prernn.hidden_structure(name).mask(size)
        parts.append(
            f'<rect x="{left}" y="{top}" width="{size * cell}" height="{size * cell}" fill="none" stroke="{LINE}"/>'
        )
        for row, column in mask.nonzero().tolist():
            x, y = left + cell * column, top + cell * row
            parts.append(f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" fill="{NEW[1]}"/>')
        parts.append(label(left + size * cell / 2, top + size * cell + 22, f"{name}: {int(mask.sum())}"))
    return 720, 390, parts


def rcn_drawing() -> tuple[int, int, list[str]]:
    """Convolutions upwards, states to the right."""
    parts = []
    for step in range(3):
        left = 110 + 210 * step
        parts.append(label(left + 55, 290, f"x_t{('-2', '-1', '')[step]}"))
        parts.append(arrow((left + 55, 272), (left + 55, 246)))
        for level in range(3):
            y = 204 - 80 * level
            parts.append(box(left, y, 110, 40, "convolution", KEPT))
            if level:
                parts.append(arrow((left + 55, y + 80), (left + 55, y + 42)))
            if step < 2:
                parts += [arrow((left + 110, y + 20), (left + 208, y + 20), color=NEW[1])]
                parts += [label(left + 160, y + 12, "W_hh")]
        parts.append(arrow((left + 55, 44), (left + 55, 22)))
        parts.append(label(left + 55, 16, "output"))
    return 760, 300, parts


def paths_drawing() -> tuple[int, int, list[str]]:
    """The paths of a small network."""
    sizes, count = (8, 8, 8, 4), 8
    net = prernn.PathNetwork(list(sizes), paths=count)
    places = [
        [(90 + 190 * layer, 24 + (208 / size) * (unit + 0.5)) for unit in range(size)]
        for layer, size in enumerate(sizes)
    ]
    layers = [module for module in net.modules() if isinstance(module, prernn.PathLinear)]
    colors = ("#3f7fbf", "#d9822b", "#3a9a5b", "#b04a9c", "#c2453f", "#2a9da6", "#8a6d3b", "#6a5acd")
    parts = []
    for number, layer in enumerate(layers):
        for path, (source, end) in enumerate(zip(layer.source.tolist(), layer.destination.tolist(), strict=True)):
            (x, y), (right, down) = places[number][source], places[number + 1][end]
            way = f"M{x} {y} {right} {down}"
            parts.append(f'<path d="{way}" stroke="{colors[path % 8]}" stroke-width="2.2" fill="none"/>')
    for number, units in enumerate(places):
        parts += [f'<circle cx="{x}" cy="{y}" r="8" fill="{PLAIN[0]}" stroke="{PLAIN[1]}"/>' for x, y in units]
        parts.append(label(units[0][0], 256, ("inputs", "hidden", "hidden", "outputs")[number]))
    return 750, 264, parts


def quantization_drawing() -> tuple[int, int, list[str]]:
    """Weights as parts of the unit interval, and samples that fall into them."""
    weights, samples = (0.9, 0.15, -0.55, 0.3, -1.1), 8
    total, left, width, x = sum(map(abs, weights)), 30, 690, 0.0
    parts = [label(left, 24, "each weight is a part of the unit interval, as long as it is large", anchor="start")]
    marks = [(number + 0.4) / samples for number in range(samples)]
    for weight in weights:
        end = x + abs(weight) / total
        count = sum(x <= mark < end for mark in marks) * (1 if weight > 0 else -1)
        text = f"{weight:g}" if abs(weight) > 0.2 else f"{weight:.2f}"[1:]
        parts.append(box(left + width * x, 40, width * (end - x), 44, text, KEPT if weight > 0 else NEW))
        parts.append(label(left + width * (x + end) / 2, 172, f"{count:+d}" if count else "0"))
        x = end
    for mark in marks:
        place = left + width * mark
        parts.append(arrow((place, 130), (place, 90)))
    parts.append(label(left, 150, f"{samples} even samples", anchor="start"))
    parts.append(label(left, 200, "how many fall into a part, with the weight's sign, is its integer", anchor="start"))
    return 750, 212, parts


def clips_drawing() -> tuple[int, int, list[str]]:
    """Clips in training: each from zero, or in rows."""
    parts = []
    for y, title, goes_on in ((20, "from zero each", False), (110, "a row that goes on", True)):
        parts.append(label(8, y + 30, title, anchor="start"))
        for clip in range(3):
            left = 190 + 185 * clip
            parts.append(box(left, y, 145, 50, "", PLAIN))
            seen = (left + 72, 73) if goes_on else (left, 145)
            parts.append(box(seen[0], y, seen[1], 50, "loss", KEPT))
            if not goes_on or clip == 0:
                parts += [label(left - 20, y + 30, "0"), arrow((left - 13, y + 25), (left - 2, y + 25))]
            if goes_on and clip < 2:
                parts += [arrow((left + 146, y + 25), (left + 183, y + 25), color=NEW[1])]
                parts += [label(left + 164, y + 16, "state")]
    return 740, 172, parts


DRAWINGS: dict[str, Callable[[], tuple[int, int, list[str]]]] = {
    "concepts/prernn.svg": prernn_drawing,
    "concepts/sih.svg": sih_drawing,
    "concepts/band.svg": band_drawing,
    "concepts/rcn.svg": rcn_drawing,
    "concepts/paths.svg": paths_drawing,
    "concepts/quantization.svg": quantization_drawing,
    "guides/training/clips.svg": clips_drawing,
}
"""What draws each file: its width, its height and its parts."""

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        wide, high, drawn = draw()
        text = HEAD.format(w=wide, h=high) + "\n".join(drawn) + "\n</svg>\n"
        (DOCS / name).write_text(text, encoding="utf-8")
