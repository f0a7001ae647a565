import io
from functools import cache
from itertools import combinations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scenes import scene

from dataset.quality import NEAR, blurred, hash_distance, near_duplicates, perceptual_hash, sharpness

PLACES, SUBJECTS = range(5), range(8)


@cache
def scenes():
    return {place: [scene(10 * place + subject, place=place) for subject in SUBJECTS] for place in PLACES}


@cache
def hashes():
    return {place: [perceptual_hash(picture) for picture in some] for place, some in scenes().items()}


def recompressed(picture, quality=30):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def cropped(picture, share=0.02):
    x, y = (side * share / 2 for side in picture.size)
    return picture.crop((round(x), round(y), round(picture.width - x), round(picture.height - y)))


COPIES = {
    "half the size": lambda picture: picture.resize((160, 120), Image.Resampling.LANCZOS),
    "twice the size": lambda picture: picture.resize((640, 480), Image.Resampling.BICUBIC),
    "another shape": lambda picture: picture.resize((300, 260), Image.Resampling.BOX),
    "recompressed": recompressed,
    "brightened": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "darkened": lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
    "more contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(1.2),
    "paler": lambda picture: ImageEnhance.Color(picture).enhance(0.5),
    "cropped": cropped,
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_changed_copy_is_a_near_duplicate(copy):
    distances = [
        hash_distance(bits, perceptual_hash(np.asarray(COPIES[copy](Image.fromarray(picture)))))
        for place in PLACES
        for picture, bits in zip(scenes()[place], hashes()[place], strict=True)
    ]
    assert np.mean(np.array(distances) <= NEAR) >= 0.95


def test_two_pictures_of_the_same_scene_are_hardly_ever_near_duplicates():
    distances = [hash_distance(*pair) for some in hashes().values() for pair in combinations(some, 2)]
    assert len(distances) == len(PLACES) * 28
    assert sum(distance <= NEAR for distance in distances) <= 1
    assert min(distances) > NEAR - 2


def test_two_pictures_of_different_scenes_are_far_apart():
    distances = [
        hash_distance(one, other)
        for here, there in combinations(PLACES, 2)
        for one in hashes()[here]
        for other in hashes()[there]
    ]
    assert min(distances) > 2 * NEAR


def test_half_of_the_frequencies_are_above_the_median():
    # 63 of them; the 64th bit stands for the brightness and is never set.
    assert {bits.bit_count() for some in hashes().values() for bits in some} == {31}
    assert all(bits < 1 << 63 for some in hashes().values() for bits in some)


def test_a_copy_points_at_the_most_similar_of_the_earlier_ones_and_no_chain_is_made():
    far = (1 << 64) - 1
    near, nearer = (1 << NEAR) - 1, 1
    found = near_duplicates([0, far, near, nearer, far])
    assert [(one.index, one.of, one.distance) for one in found] == [(2, 0, NEAR), (3, 0, 1), (4, 1, 0)]
    # The second differs too much from the first; the third is near to both, and nearer to the second.
    steps = [0, (1 << 8) - 1, (1 << 6) - 1]
    assert [(one.index, one.of, one.distance) for one in near_duplicates(steps)] == [(2, 1, 2)]


def test_one_bit_more_than_the_threshold_is_another_picture():
    assert near_duplicates([0, (1 << (NEAR + 1)) - 1]) == ()
    assert near_duplicates([]) == ()


def test_the_distance_agrees_with_the_list_of_near_duplicates():
    chance = np.random.default_rng(0)
    for _ in range(200):
        flips = sum(
            1 << int(bit) for bit in chance.choice(64, size=chance.integers(0, NEAR + 1), replace=False)
        )
        bits = int(chance.integers(0, 1 << 63))
        (found,) = near_duplicates([bits, bits ^ flips])
        assert found.distance == hash_distance(bits, bits ^ flips) == flips.bit_count()


def test_a_plain_picture_has_the_same_hash_at_every_size_and_brightness():
    def plain(level, size):
        return np.full((size, size, 3), level, np.uint8)

    assert {perceptual_hash(plain(level, size)) for level in (0, 90, 255) for size in (1, 7, 200)} == {0}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 33)])
def test_pictures_of_any_shape_can_be_measured(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert 0 <= perceptual_hash(picture) < 1 << 64
    assert sharpness(picture) >= 0


def test_sharpness_is_the_variance_of_the_laplacian():
    picture = scenes()[0][0]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(float)
    padded = np.pad(grey, 1, mode="reflect")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    assert sharpness(picture) == pytest.approx((around - 4 * grey).var())


@pytest.mark.parametrize("radius", [1.5, 3, 6])
def test_a_blurred_picture_is_found_among_sharp_ones(radius):
    pictures = [picture for some in scenes().values() for picture in some]
    pictures[7] = np.asarray(cv2.GaussianBlur(pictures[7], (0, 0), radius), np.uint8)
    assert blurred([sharpness(picture) for picture in pictures]) == (7,)


def test_a_set_that_is_soft_throughout_has_no_blurred_picture():
    soft = [cv2.GaussianBlur(picture, (0, 0), 3) for picture in scenes()[0]]
    assert blurred([sharpness(picture) for picture in soft]) == ()


def test_a_picture_that_is_sharp_by_itself_is_not_blurred_beside_sharper_ones():
    assert blurred([61.0, 4000.0, 4000.0]) == ()
    assert blurred([59.0, 4000.0, 4000.0]) == (0,)
    assert blurred([30.0, 100.0, 100.0]) == ()
    assert blurred([24.0, 100.0, 100.0]) == (0,)
    assert blurred([]) == ()
