"""The tiny world: what it draws is what it says, and the checker sees both, blurred as well."""

import io
import random

import cv2
import numpy as np
import pytest
from PIL import Image

from musubi_flux_dev.tiny_world.captions import WORDS, captions, place
from musubi_flux_dev.tiny_world.checker import look
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, NEW_WORD, OUTLINES, Scene, Thing, draw
from musubi_flux_dev.tiny_world.scenes import (
    SIZES,
    concept_scenes,
    held_out_scenes,
    meaning,
    one_shape,
    seen_pairs,
    training_scenes,
    two_shapes,
    withheld_pairs,
)

ALL_PAIRS = [(colour, shape) for colour in COLOURS for shape in OUTLINES]
RED_CIRCLE = Thing(shape="circle", colour="red", x=0.3, y=0.5, radius=0.28)
BLUE_CROSS = Thing(shape="cross", colour="blue", x=0.75, y=0.5, radius=0.18)


def scenes_of(kind, count):
    draws = random.Random(5)
    return [kind(draws, pairs=ALL_PAIRS, size=draws.choice(SIZES)) for _ in range(count)]


def softened(picture):
    """As a weak autoencoder leaves it: 25 to 30 dB of blur, noise and the blocks of JPEG."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2.2)
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    file = io.BytesIO()
    whole = (blurred + noise).clip(0, 255).round().astype(np.uint8)
    Image.fromarray(whole).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def truth(scene):
    return sorted((place(thing), thing.colour, thing.shape) for thing in scene.things)


def seen(picture):
    return sorted((thing.place, thing.colour, str(thing.shape)) for thing in look(picture).things)


@pytest.mark.parametrize("kind", [one_shape, two_shapes])
def test_on_true_pictures_the_checker_sees_everything(kind):
    scenes = scenes_of(kind, 150)
    right = [
        seen(draw(scene)) == truth(scene) and look(draw(scene)).background == scene.background
        for scene in scenes
    ]
    assert np.mean(right) >= 0.97


def test_on_blurred_noised_and_recompressed_pictures_the_checker_is_mostly_right():
    scenes = scenes_of(one_shape, 150)
    pictures = [softened(draw(scene)) for scene in scenes]
    errors = [np.square(draw(s).astype(float) - p).mean() for s, p in zip(scenes, pictures, strict=True)]
    assert 25 < -10 * np.log10(np.mean(errors) / 255**2) < 30
    triples = [(seen(p), truth(s)) for s, p in zip(scenes, pictures, strict=True)]
    assert all(len(found) == 1 for found, _ in triples)
    for part in range(3):
        assert np.mean([found[0][part] == true[0][part] for found, true in triples]) >= 0.9


def test_pale_pictures_keep_their_colours():
    for colour in COLOURS:
        scene = Scene(
            height=64,
            width=64,
            background="grey",
            things=(Thing(shape="square", colour=colour, x=0.5, y=0.5, radius=0.28),),
        )
        pale = (0.7 * draw(scene) + 0.3 * 128).astype(np.uint8)
        assert [thing.colour for thing in look(pale).things] == [colour]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nothing_is_seen_in_an_empty_picture_or_in_faint_noise(level):
    noise = np.random.default_rng(1).normal(level, 6, (64, 64, 3))
    assert look(noise.clip(0, 255).astype(np.uint8)).things == ()


def test_a_blob_like_no_shape_is_named_none():
    picture = np.full((64, 64, 3), 242, dtype=np.uint8)
    picture[30:34, 6:58] = (204, 36, 40)
    (thing,) = look(picture).things
    assert thing.shape is None
    assert thing.colour == "red"


def test_the_new_shape_is_told_from_every_shape_that_the_base_knows():
    for scene in concept_scenes():
        for picture in (draw(scene), softened(draw(scene))):
            (thing,) = look(picture).things
            assert thing.shape == NEW_WORD
    others = [scene for scene in scenes_of(one_shape, 100) if scene.things[0].shape != NEW_WORD]
    assert not [s for s in others if look(draw(s)).things[0].shape == NEW_WORD]


def test_a_picture_is_as_its_description_says():
    picture = draw(Scene(height=64, width=96, background="white", things=(RED_CIRCLE, BLUE_CROSS)))
    assert picture.shape == (64, 96, 3)
    assert tuple(picture[2, 2]) == BACKGROUNDS["white"]
    assert tuple(picture[32, 29]) == COLOURS["red"]
    assert tuple(picture[32, 72]) == COLOURS["blue"]


def test_captions_say_shape_colour_place_and_background():
    one = Scene(height=64, width=64, background="black", things=(RED_CIRCLE,))
    assert captions(one)[0] == "a large red circle on the left on a black background"
    assert captions(one)[3] == "red circle, large, on the left, black background"
    two = Scene(height=64, width=64, background="grey", things=(RED_CIRCLE, BLUE_CROSS))
    assert captions(two)[2] == "a red circle left of a blue cross on a grey background"
    for scene in (one, two):
        for caption in captions(scene):
            assert all(thing.colour in caption and thing.shape in caption for thing in scene.things)
            assert scene.background in caption


def test_captions_use_known_words_only_and_the_new_word_is_not_one_of_them():
    for scene in training_scenes(3, 200):
        for caption in captions(scene):
            assert set(caption.replace(",", " ,").split()) <= set(WORDS)
    assert NEW_WORD not in WORDS


def test_every_colour_has_one_withheld_pair_and_training_never_shows_it():
    withheld = withheld_pairs()
    assert {colour for colour, _ in withheld} == set(COLOURS)
    shown = {(t.colour, t.shape) for scene in training_scenes(0, 800) for t in scene.things}
    assert shown == set(seen_pairs())
    assert not shown & withheld


def test_held_out_scenes_are_fixed_all_different_and_never_trained_on():
    held_out = held_out_scenes()
    assert held_out == held_out_scenes()
    meanings = {meaning(scene) for scene in held_out}
    assert len(meanings) == len(held_out) == 96
    assert sum((s.things[0].colour, s.things[0].shape) in withheld_pairs() for s in held_out) == 48
    assert not meanings & {meaning(scene) for scene in training_scenes(0, 800)}


def test_the_same_seed_draws_the_same_pictures_and_another_one_others():
    first, again, other = (training_scenes(seed, 20) for seed in (1, 1, 2))
    assert all(np.array_equal(draw(a), draw(b)) for a, b in zip(first, again, strict=True))
    assert first != other


def test_the_concept_has_twelve_pictures_in_every_colour():
    scenes = concept_scenes()
    assert len(scenes) == 12
    assert {scene.things[0].colour for scene in scenes} == set(COLOURS)
    assert {scene.things[0].shape for scene in scenes} == {NEW_WORD}
