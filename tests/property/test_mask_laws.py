"""A mask follows its picture through orientation, scale, crop and mirror."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from encoded_items import cache, item_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dataset.batch import Example, load_batch
from dataset.buckets import Size, choose_bucket

ORIENTATION = 0x0112
OPPOSITE = {6: 8, 8: 6}
"""Turning by the mark of the opposite turn undoes the turn by the mark; the others undo themselves."""

sides = st.integers(24, 260)
places = st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8))
orientations = st.integers(1, 8)
resolutions = st.sampled_from([Size(64, 64), Size(96, 96), Size(128, 64)])


def block(size, place):
    """Return a black picture with one white block of about a third of its sides around ``place``."""
    image = np.zeros((size.height, size.width, 3), np.uint8)
    high, wide = max(8, size.height // 3), max(8, size.width // 3)
    top = min(int(place[0] * size.height), size.height - high)
    left = min(int(place[1] * size.width), size.width - wide)
    image[top : top + high, left : left + wide] = 255
    return Image.fromarray(image)


def save_turned(upright, path, orientation):
    """Save so that a reader who follows the orientation mark sees ``upright``."""
    mark = Image.Exif()
    mark[ORIENTATION] = orientation
    turned = upright.copy()
    turned.getexif()[ORIENTATION] = OPPOSITE.get(orientation, orientation)
    ImageOps.exif_transpose(turned).save(path, exif=mark)


def centre(weights):
    """Return the weighted mean row and column of (h, w), and how much there is."""
    rows, columns = (torch.arange(length).float() for length in weights.shape)
    total = weights.sum()
    return (weights.sum(1) @ rows / total, weights.sum(0) @ columns / total), total


@given(st.builds(Size, sides, sides), resolutions, places, orientations, orientations, st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_block_of_the_mask_lands_where_that_block_of_the_picture_lands(
    size, resolution, place, picture_turn, mask_turn, mirrored
):
    bucket = choose_bucket(size, resolution=resolution, step=16, enable_bucket=True, no_upscale=False)
    upright = block(size, place)
    with TemporaryDirectory() as folder:
        picture, mask = Path(folder) / "a.png", Path(folder) / "m.png"
        save_turned(upright, picture, picture_turn)
        save_turned(upright.convert("L"), mask, mask_turn)
        item = item_of(picture, folder=Path(folder), bucket=bucket, mask_path=mask, flip=True)
        assert item.size == size
        cache([item])
        batch = load_batch([Example(item=item, mirrored=mirrored)], names={"w_vec": "words"})
    assert batch.mask is not None
    brightness = (batch.latents[0, 0] + 1) / 2
    (row, column), total = centre(brightness)
    (mask_row, mask_column), mask_total = centre(batch.mask[0, 0])
    assert total > 0
    assert abs(row - mask_row) <= 1
    assert abs(column - mask_column) <= 1
    # The whole of it, not only its middle: no place differs by more than its rounding.
    assert (brightness - batch.mask[0, 0]).abs().max() < 0.02
    assert abs(total - mask_total) < 0.02 * batch.mask.numel()
