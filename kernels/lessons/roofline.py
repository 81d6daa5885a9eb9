"""Draws roofline.svg: each lesson's intensity as counted, under the roofline of the card that timed the kernels.

`python kernels/lessons/roofline.py` runs the lessons and writes the picture. A hollow dot is a prediction: the FLOPs
that a lesson's last kernel does for each byte it requests, and the most that the card could do of them per second. A
full dot is a shipped kernel as it was measured (benchmarks/results/h200), at the share of its roofline that it
reached.
"""

import contextlib
import io
import math
import runpy

import lab

PICTURE = lab.LESSONS / "roofline.svg"
MEASURED = {
    "02_layer_norm": "add_layer_norm, 4096 × 768",
    "09_tile_list": "attention, 64 × 512, 12 heads of 64",
    "12_windows": "windows of 7, 64 × 56 × 56, 3 heads of 32, shifted",
    "14_capstone": "bias_gelu, 4096 × 3072",
}
"""The lessons that end in a shipped kernel, and the work that it was timed at."""

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 420, 70, 50
X, Y = (-1.5, 3.0), (11.0, 15.2)
"""Decades of FLOPs per byte and of FLOPs per second."""


def intensity(counts: lab.Counts) -> float:
    """FLOPs and powers, for each requested byte."""
    return (counts.flops + counts.powers) / counts.bytes


def run(name: str) -> lab.Counts | None:
    """What a lesson's last counted kernel did; None where a lesson counts none."""
    with contextlib.redirect_stdout(io.StringIO()):
        return runpy.run_path(str(lab.LESSONS / f"{name}.py"), run_name="__main__").get("counts")


def names() -> list[str]:
    """The lessons, in order."""
    return sorted(path.stem for path in lab.LESSONS.glob("[0-9]*.py"))


def draw(intensities: dict[str, float]) -> str:
    """The picture, from each lesson's FLOPs per byte."""
    sections = lab.measured("h200/results.json")["sections"]
    card = sections["device"]["device"]
    bandwidth, flops = card["peaks"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    ]
    for decade in range(math.ceil(X[0]), math.floor(X[1]) + 1):
        x, y = place(10.0**decade, 10.0 ** Y[0])
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{10.0**decade:g}</text>')
    for decade in range(math.ceil(Y[0]), math.floor(Y[1]) + 1):
        x, y = place(10.0 ** X[0], 10.0**decade)
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{10.0 ** (decade - 12):g}</text>')
    corners = [place(at, min(bandwidth * at, flops)) for at in (10 ** X[0], flops / bandwidth, 10 ** X[1])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#455a64" stroke-width="2"/>')
    for index, (name, at) in enumerate(intensities.items()):
        roof = min(bandwidth * at, flops)
        x, y = place(at, roof)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="white" stroke="#1e88e5" stroke-width="2"/>')
        parts.append(f'<text x="{x:.1f}" y="{y - 10 - 13 * (index % 3):.1f}" text-anchor="middle">{name[:2]}</text>')
        if name in MEASURED:
            row = sections["operations"][MEASURED[name]]
            times = row["times"]
            share = row["floor_ms"] / times.get("ours, in a graph", times["ours"])["ms"]
            x, y = place(at, roof * share)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#fb8c00"/>')
            parts.append(f'<text x="{x + 9:.1f}" y="{y + 14:.1f}">{MEASURED[name].split(",")[0]}, {share:.0%}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">FLOPs per requested byte, as counted</text>'
        f'<text x="{LEFT}" y="20">TFLOP/s under the roofline of an {card["name"]} (data sheet, 16 bits)</text>'
        f'<circle cx="{LEFT + 6}" cy="38" r="5" fill="white" stroke="#1e88e5" stroke-width="2"/>'
        f'<text x="{LEFT + 18}" y="42">a lesson, predicted</text>'
        f'<circle cx="{LEFT + 156}" cy="38" r="5" fill="#fb8c00"/>'
        f'<text x="{LEFT + 168}" y="42">a shipped kernel, measured: its share of its roofline</text></svg>\n'
    )
    return "\n".join(parts)


def place(flops_a_byte: float, flops_a_second: float) -> tuple[float, float]:
    """Where a point of the plane lies in the picture."""
    across = (math.log10(flops_a_byte) - X[0]) / (X[1] - X[0])
    up = (math.log10(flops_a_second) - Y[0]) / (Y[1] - Y[0])
    return LEFT + across * (WIDTH - LEFT - 20), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - 60)


if __name__ == "__main__":
    counted = {name: counts for name in names() if (counts := run(name))}
    PICTURE.write_text(draw({name: intensity(counts) for name, counts in counted.items()}), encoding="utf-8")
    print(f"wrote {PICTURE}")
