"""Whatever the tiny world says of a scene is read back as it was said, and true pictures are judged right."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musubi_flux_dev.tiny_world.captions import (
    PHRASINGS_OF_ONE,
    PHRASINGS_OF_TWO,
    captions,
    place,
    size,
)
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, NEW_WORD, OUTLINES, Scene, Thing, draw
from musubi_flux_dev.tiny_world.judge import answers
from musubi_flux_dev.tiny_world.scenes import SIZES, one_shape, two_shapes
from musubi_flux_dev.tiny_world.wanted import FORMS, RELATIONS, Wanted, WantedThing, read_caption

ALL_PAIRS = [(colour, shape) for colour in COLOURS for shape in OUTLINES]
parts = st.floats(0.2, 0.8)
things = st.tuples(
    st.sampled_from([*OUTLINES]), st.sampled_from([*COLOURS]), parts, parts, st.floats(0.1, 0.4)
)


def some(found):
    assert found is not None
    return found


def scene_of(background, described):
    made = [
        Thing(shape=shape, colour=colour, x=x, y=y, radius=radius)
        for shape, colour, x, y, radius in described
    ]
    return Scene(height=64, width=64, background=background, things=tuple(made))


@given(st.sampled_from([*BACKGROUNDS]), st.lists(things, min_size=1, max_size=2))
def test_every_phrasing_of_every_scene_is_read_back_as_it_was_said(background, described):
    scene = scene_of(background, described)
    for caption in captions(scene):
        wanted = some(read_caption(caption))
        related = any(word in caption for word in RELATIONS)
        one = len(scene.things) == 1
        assert wanted == Wanted(
            things=tuple(
                WantedThing(
                    shape=thing.shape,
                    colour=thing.colour,
                    size=size(thing) if one else None,
                    place=None if related else place(thing),
                )
                for thing in scene.things
            ),
            background=scene.background,
            relation=wanted.relation,
        )
        assert (wanted.relation is not None) == related
        assert wanted.relation is None or f" {wanted.relation} a " in caption


def test_there_is_a_form_for_every_phrasing():
    assert len(FORMS) == len(PHRASINGS_OF_ONE) + len(PHRASINGS_OF_TWO)
    draws = random.Random(3)
    for kind in (one_shape, two_shapes):
        for caption in captions(kind(draws, pairs=ALL_PAIRS, size=(64, 64))):
            assert sum(form.fullmatch(caption) is not None for form in FORMS) == 1


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        (f"A red {NEW_WORD}.", {"shape": NEW_WORD, "colour": "red"}),
        ("an orange circle at the top left", {"shape": "circle", "place": "at the top left"}),
        ("small red ring", None),
        ("red ring, on the left", {"shape": "ring", "place": "on the left", "size": None}),
        ("  a  small   blue square on a white background ", {"size": "small", "place": None}),
        ("a blue square on a yellow background", None),
        ("a photo of a red circle", None),
        ("a red blorb", None),
        ("", None),
        ("a red circle and a blue cross and a green ring", None),
    ],
)
def test_a_caption_may_leave_parts_out_and_anything_else_is_not_read(caption, wanted):
    found = read_caption(caption)
    assert (found is None) == (wanted is None)
    for name, value in (wanted or {}).items():
        assert getattr(some(found).things[0], name) == value


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([one_shape, two_shapes]))
def test_a_true_picture_is_judged_right_by_each_of_its_captions(seed, kind):
    draws = random.Random(seed)
    scene = kind(draws, pairs=ALL_PAIRS, size=draws.choice(SIZES))
    for caption in captions(scene):
        said = answers(caption, draw(scene))
        assert said == {"colour": True, "shape": True, "place": True, "background": True}


CIRCLE = Thing(shape="circle", colour="red", x=0.28, y=0.5, radius=0.19)
CROSS = Thing(shape="cross", colour="blue", x=0.72, y=0.5, radius=0.19)
ALONE = draw(Scene(height=64, width=64, background="white", things=(CIRCLE,)))
BOTH = draw(Scene(height=64, width=64, background="grey", things=(CIRCLE, CROSS)))


@pytest.mark.parametrize(
    ("caption", "picture", "wrong"),
    [
        ("a small blue circle on the left on a white background", ALONE, {"colour"}),
        (f"a small red {NEW_WORD} on the left on a white background", ALONE, {"shape"}),
        ("a small red circle on the right on a white background", ALONE, {"place"}),
        ("a small red circle on the left on a black background", ALONE, {"background"}),
        ("a red circle on the left and a blue cross on the right on a grey background", BOTH, set()),
        ("a blue cross right of a red circle on a grey background", BOTH, set()),
        ("a red circle right of a blue cross on a grey background", BOTH, {"place"}),
        ("a red circle above a blue cross on a grey background", BOTH, {"place"}),
        ("a blue circle left of a red cross on a grey background", BOTH, {"colour"}),
        ("a red circle left of a blue cross on a white background", ALONE, {"colour", "shape", "place"}),
    ],
)
def test_what_is_wrong_in_a_picture_is_named_and_nothing_else(caption, picture, wrong):
    assert {name for name, right in some(answers(caption, picture)).items() if not right} == wrong


def test_what_a_prompt_leaves_open_is_not_judged():
    assert answers("a red circle", ALONE) == {"colour": True, "shape": True}
    assert some(answers("a red circle on a white background", ALONE)).keys() == {
        "colour",
        "shape",
        "background",
    }


def test_an_empty_picture_shows_nothing_that_is_asked_for():
    empty = draw(Scene(height=64, width=64, background="white", things=()))
    assert not any(some(answers("a red circle in the centre", empty)).values())
    assert answers("a photo of a cat", empty) is None


def test_flux_offers_a_judge_only_for_a_transformer_that_says_it_draws_the_tiny_world(tmp_path):
    from host.architecture import Header
    from musubi_flux_dev import FLUX_DEV

    def header(**metadata):
        return Header(path=tmp_path, tensors={}, metadata=metadata)

    assert FLUX_DEV.judges(header()) == {}
    assert FLUX_DEV.judges(header(tiny_world="0")) == {}
    (judge,) = FLUX_DEV.judges(header(tiny_world="1")).values()
    assert [*judge.new_words] == [NEW_WORD]
    assert judge.answers("a red circle", ALONE) == {"colour": True, "shape": True}
