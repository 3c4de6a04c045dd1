"""How much noise smoothing takes from keypoints, and how many frames it is late.

Keypoints rest, or move slowly or quickly, as a sum of sines drawn at random. Each gets noise of 3 px; "outliers": and
one in fifty is 40 px away. Errors are root mean squares over all keypoints, and frames but the first and last second.
The lag is the shift in time at which a smoothed track without noise fits the truth best.
"""

import argparse

import numpy as np
from timing import print_table

from lightpose.inference.smoothing import OneEuro, SavitzkyGolay
from lightpose.structures import Array

FILTERS: dict[str, OneEuro | SavitzkyGolay] = {
    "one_euro (2 Hz, beta 0.3)": OneEuro(),
    "one_euro, beta=0.02": OneEuro(beta=0.02),
    "one_euro, beta=0.1": OneEuro(beta=0.1),
    "one_euro, beta=0.5": OneEuro(beta=0.5),
    "one_euro, min_cutoff=0.5": OneEuro(min_cutoff=0.5),
    "savgol (window 9, order 2)": SavitzkyGolay(),
    "savgol, window=5": SavitzkyGolay(window=5),
    "savgol, window=15": SavitzkyGolay(window=15),
    "savgol, window=15 order=3": SavitzkyGolay(window=15, order=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    times = np.arange(round(options.fps * options.seconds)) / options.fps
    movements = {"slow": movement(times, rng, 0.3), "quick": movement(times, rng, 1.5)}
    still = np.zeros_like(movements["slow"])
    rows = []
    for name, smoother in {"none": None, **FILTERS}.items():
        row: list[object] = [name, error(smoother, still, rng.normal(0, 3, still.shape), times, options.fps)]
        for truth in movements.values():
            noise = rng.normal(0, 3, truth.shape)
            outliers = noise + 40 * (rng.random(truth.shape[:2]) < 0.02)[..., None]
            row += [error(smoother, truth, truth + added, times, options.fps) for added in (noise, outliers)]
            row += [0.0 if smoother is None else lag(smoother, truth, times, options.fps)]
        waits = smoother.window // 2 + smoother.longest_gap if isinstance(smoother, SavitzkyGolay) else 0
        rows.append([*row, waits])
    columns = [f"{name} {what}" for name in movements for what in ("px|.2f", "outliers px|.2f", "lag frames|.2f")]
    speeds = {name: np.abs(np.diff(truth, axis=0)).mean() * options.fps for name, truth in movements.items()}
    print(", ".join(f"{name}: {speed:.0f} px/s on average" for name, speed in speeds.items()), f"at {options.fps} fps")
    print_table(["", "rest px|.2f", *columns, "waits for|d"], rows)


def movement(times: Array, rng: np.random.Generator, hz: float) -> Array:
    """(T, 17, 2): three sines each."""
    rates, phases = rng.uniform(0.3, 1, (3, 17, 2)) * hz, rng.uniform(0, 6.3, (3, 17, 2))
    sizes = rng.uniform(10, 40, (3, 17, 2))
    made: Array = (sizes * np.sin(2 * np.pi * rates * times[:, None, None, None] + phases)).sum(1)
    return made


def error(smoother: "OneEuro | SavitzkyGolay | None", truth: Array, noisy: Array, times: Array, fps: float) -> float:
    made = noisy if smoother is None else smoother.arrays(noisy, times)[0]
    return float(np.sqrt(np.square(made - truth)[round(fps) : -round(fps)].mean()))


def lag(smoother: "OneEuro | SavitzkyGolay", truth: Array, times: Array, fps: float) -> float:
    """Frames, to a twentieth."""
    made, edge = smoother.arrays(truth, times)[0], round(fps)
    shifts = np.arange(-2, 12, 0.05)

    def misfit(shift: float) -> float:
        moved = [np.interp(times - shift / fps, times, column) for column in truth.reshape(len(truth), -1).T]
        return float(np.square(np.stack(moved, 1) - made.reshape(len(made), -1))[edge:-edge].mean())

    return float(shifts[np.argmin([misfit(shift) for shift in shifts])])


if __name__ == "__main__":
    main()
