"""Jitter and lag of the One-Euro filter on known motion with noise like the encoder's, and the choice of parameters.

    python benches/smoothing_signals.py            the table of the default parameters
    python benches/smoothing_signals.py --choose   the grid behind them

Noise: measured on the clips of benches/tracker.py (standard deviation within a second, correlation of successive
frames). Jitter: rms deviation from the running mean over a second, while the truth rests. Lag: the shift of the truth
that fits the output best (least squares, as the best cross-correlation of signals without mean), while it moves.
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm3dr.smoothing import OneEuro, OneEuroRotation, OneEuroVector, Smoothing, rotation_matrix, rotation_vector

F64 = NDArray[np.float64]
FPS, COPIES = 25.0, 3
CORRELATION = 0.3
LAG_MS = 40.0
"""One frame: the most lag that the choice allows."""


@dataclass(frozen=True)
class Channel:
    """A kind of signal: where it moves and how, and its noise."""

    noise: tuple[float, ...]
    """Standard deviation by component."""
    truth: Callable[[F64], F64]
    """(n,) seconds -> (n, components)."""
    together: bool = False
    rotation: bool = False
    unit: str = ""


def ramp(t: F64, start: float, length: float) -> F64:
    """From 0 to 1 with speed 0 at both ends."""
    x = np.clip((t - start) / length, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def wave(t: F64, start: float, end: float, rate: float) -> F64:
    """A sine between two times, fading in and out over a quarter of a second."""
    window = ramp(t, start, 0.25) * (1.0 - ramp(t, end - 0.25, 0.25))
    return window * np.sin(2.0 * np.pi * rate * (t - start))


def _rotation(t: F64) -> F64:
    yaw = np.radians(30) * wave(t, 3, 9, 0.33) + np.radians(15) * wave(t, 11, 14, 1.5)
    pitch = np.radians(15) * wave(t, 15, 18, 0.8)
    roll = np.radians(12) * (ramp(t, 19, 0.5) - ramp(t, 21, 0.5))
    return np.stack([pitch, yaw, roll], 1)


def _place(t: F64) -> F64:
    x = 1.5 * wave(t, 3, 9, 0.33) + 2.0 * (ramp(t, 11, 0.6) - ramp(t, 13, 0.6)) + 0.15 * wave(t, 15, 18, 2.0)
    y = 0.5 * wave(t, 3, 9, 0.5) + 0.7 * (ramp(t, 19, 0.5) - ramp(t, 21, 0.5))
    return np.stack([x, y], 1)


def _depth(t: F64) -> F64:
    lean = 0.2 * (ramp(t, 11, 0.5) - ramp(t, 13, 0.5)) + 0.2 * (ramp(t, 19, 0.5) - ramp(t, 21, 0.5))
    return (0.15 * wave(t, 3, 9, 0.33) + lean)[:, None]


def _expression(t: F64) -> F64:
    def blink(start: float) -> F64:
        return 0.9 * (ramp(t, start, 0.08) - ramp(t, start + 0.12, 0.12))

    smile = 0.6 * (ramp(t, 3, 0.4) - ramp(t, 6, 0.5)) + 0.4 * (ramp(t, 19, 0.25) - ramp(t, 21, 0.25))
    speech = 0.15 * (wave(t, 11, 18, 4.0) + ramp(t, 11, 0.25) - ramp(t, 17.75, 0.25))
    blinks = sum((blink(s) for s in (3.5, 5.0, 8.0, 12.0, 16.0, 20.0)), np.zeros_like(t))
    return np.stack([smile, speech, blinks], 1)


CHANNELS = {
    "rotation": Channel((0.012, 0.049, 0.026), _rotation, together=True, rotation=True, unit="rad"),
    "place": Channel((0.012, 0.012), _place, together=True, unit="face widths"),
    "depth": Channel((0.042,), _depth, unit="log"),
    "expression": Channel((0.02, 0.02, 0.02), _expression, unit="of a full blendshape"),
}


def noisy(channel: Channel, times: F64, seed: int) -> F64:
    """Return the truth with noise whose successive values are correlated."""
    rng = np.random.default_rng(seed)
    white = rng.normal(0.0, 1.0, (len(times), len(channel.noise)))
    noise = white.copy()
    for k in range(1, len(times)):
        noise[k] = CORRELATION * noise[k - 1] + np.sqrt(1.0 - CORRELATION**2) * white[k]
    return channel.truth(times) + noise * np.array(channel.noise)


def filtered(channel: Channel, parameters: OneEuro | None, signal: F64) -> F64:
    """Run the filter over a signal (n, components)."""
    if parameters is None:
        return signal
    if channel.rotation:
        turn = OneEuroRotation(parameters)
        return np.array([rotation_vector(turn(rotation_matrix(v), 1.0 / FPS)) for v in signal])
    smooth = OneEuroVector(parameters, together=channel.together)
    return np.array([smooth(v, 1.0 / FPS) for v in signal])


def jitter(output: F64, resting: NDArray[np.bool_]) -> float:
    """Rms over resting moments of the deviation from the running mean over a second."""
    half = int(FPS / 2)
    places = [k for k in range(half, len(output) - half) if resting[k - half : k + half + 1].all()]
    high = [output[k] - output[k - half : k + half + 1].mean(0) for k in places]
    return float(np.sqrt(np.mean(np.square(high))))


def lag_ms(output: F64, channel: Channel, times: F64, moving: NDArray[np.bool_]) -> float:
    """Milliseconds by which the output comes late."""
    shifts = np.arange(-0.02, 0.3, 0.002)
    errors = [np.square(output[moving] - channel.truth(times[moving] - s)).mean() for s in shifts]
    return float(1e3 * shifts[int(np.argmin(errors))])


def measure(channel: Channel, parameters: OneEuro | None) -> tuple[float, float, float]:
    """Return jitter at rest, lag in motion (ms) and rms error against the truth."""
    times = np.arange(0.0, 24.0, 1.0 / FPS)
    truth = channel.truth(times)
    steps = np.max([np.abs(channel.truth(times + s) - truth).max(1) for s in (-0.12, -0.06, 0.06, 0.12)], axis=0)
    moving, resting = steps > 1e-3, steps <= 1e-9
    values = []
    for seed in range(COPIES):
        output = filtered(channel, parameters, noisy(channel, times, seed))
        values.append(
            (
                jitter(output, resting),
                lag_ms(output, channel, times, moving),
                float(np.sqrt(np.square(output - truth).mean())),
            )
        )
    a, b, c = np.mean(values, axis=0)
    return float(a), float(b), float(c)


def choose(channel: Channel) -> str:
    """Return the parameters by the rule of docs/video.md, and what they reach.

    Of those that come at most `LAG_MS` late and halve the jitter, the least error; where none halves it, the least
    jitter.
    """
    without = measure(channel, None)[0]
    grid = itertools.product((0.25, 0.5, 1.0, 1.5, 2.0, 3.0), (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), (1.0, 3.0))
    rows = [(*measure(channel, OneEuro(*values)), values) for values in grid]
    allowed = [row for row in rows if row[1] <= LAG_MS]
    halved = [row for row in allowed if row[0] <= without / 2.0]
    best = min(halved, key=lambda row: row[2]) if halved else min(allowed)
    return f"{best[3]}: jitter {best[0]:.4f}, lag {best[1]:.0f} ms, error {best[2]:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="search the grid for every channel (minutes)")
    arguments = parser.parse_args()
    print("| signal | parameters | jitter without | with | lag ms | rms error without | with |")
    print("|---|---|---|---|---|---|---|")
    for name, channel in CHANNELS.items():
        parameters = getattr(Smoothing(), name)
        without, smooth = measure(channel, None), measure(channel, parameters)
        text = f"{parameters.min_cutoff:g}, {parameters.beta:g}, {parameters.derivative_cutoff:g}"
        print(
            f"| {name}, {channel.unit} | {text} | {without[0]:.4f} | {smooth[0]:.4f} | {smooth[1]:.0f} "
            f"| {without[2]:.4f} | {smooth[2]:.4f} |"
        )
        if arguments.choose:
            print(f"chosen: {name} {choose(channel)}", flush=True)


if __name__ == "__main__":
    main()
