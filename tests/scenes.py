"""Seeded pictures that are like photographs where it counts: clouds of all frequencies, and a subject."""

import numpy as np
from PIL import Image, ImageDraw


def clouds(chance, height, width, *, falloff=1.2):
    """Return noise whose strength falls with the frequency, as in pictures of the world."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    waves = (
        chance.normal(size=frequency.shape) + 1j * chance.normal(size=frequency.shape)
    ) / frequency**falloff
    waves[0, 0] = 0
    levels = np.fft.irfft2(waves, (height, width))
    return levels / levels.std()


def scene(seed, *, place=0, height=240, width=320):
    """Return a subject of its own, by ``seed``, before the background ``place``."""
    behind, chance = np.random.default_rng(1000 + place), np.random.default_rng(seed)
    channels = [clouds(behind, height, width) * 35 + behind.integers(60, 190) for _ in range(3)]
    picture = Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    x, y = chance.uniform(0.25, 0.75) * width, chance.uniform(0.35, 0.65) * height
    size = chance.uniform(0.15, 0.3) * height
    skin, coat = (tuple(chance.integers(low, 230, 3).tolist()) for low in (120, 0))
    draw.rectangle((x - 1.2 * size, y + 0.8 * size, x + 1.2 * size, height), fill=coat)
    draw.ellipse((x - 0.8 * size, y - size, x + 0.8 * size, y + size), fill=skin)
    for side in (-0.3, 0.3):
        eye = x + side * size
        draw.ellipse((eye - 0.1 * size, y - 0.3 * size, eye + 0.1 * size, y - 0.1 * size), fill=(9, 9, 9))
    grain = chance.normal(size=(height, width, 1)) * 4
    return (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
