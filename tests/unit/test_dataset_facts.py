import json
from dataclasses import replace

import numpy as np
import pytest
from items import small_item
from PIL import Image
from scenes import scene

import dataset.facts
from dataset.buckets import Size
from dataset.facts import Facts, from_record, measure, to_record
from dataset.images import fit_to_bucket
from dataset.problems import ProblemsFound
from dataset.quality import perceptual_hash, sharpness

BUCKET = Size(96, 64)


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of a folder as items."""
    items = []
    for number in range(3):
        item = small_item(f"p{number}", directory=tmp_path, size=Size(240, 320), bucket=BUCKET)
        Image.fromarray(scene(number)).save(item.image_path)
        items.append(item)
    return items


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded, in order."""
    paths, decode = [], dataset.facts.decode

    def count(path):
        paths.append(path.name)
        return decode(path)

    monkeypatch.setattr(dataset.facts, "decode", count)
    return paths


def save_mask(path, white):
    """Save a mask that is white in the first ``white`` of 240 rows."""
    levels = np.zeros((240, 320), np.uint8)
    levels[:white] = 255
    Image.fromarray(levels).save(path)


def test_facts_are_those_of_the_fitted_picture_and_the_hash_that_of_the_whole_one(pictures):
    facts = measure(pictures)[pictures[1]]
    fitted = fit_to_bucket(scene(1), BUCKET)
    assert facts.bucket == BUCKET
    assert facts.sharpness == round(sharpness(fitted), 1)
    assert facts.perceptual_hash == perceptual_hash(scene(1)) != perceptual_hash(fitted)
    assert (facts.mask, facts.mask_share) == ("", None)


def test_what_is_known_is_not_measured_again(pictures, decoded):
    known = measure(pictures[:2])
    assert sorted(decoded) == ["p0.png", "p1.png"]
    assert measure(pictures, known=known)[pictures[0]] is known[pictures[0]]
    assert sorted(decoded) == ["p0.png", "p1.png", "p2.png"]
    assert list(measure(pictures, known=measure(pictures, known=known))) == pictures
    assert len(decoded) == 4


def test_facts_of_another_bucket_or_mask_are_measured_again(pictures, decoded, tmp_path):
    item, *_ = pictures
    facts = measure([item])[item]
    other = replace(item, bucket=Size(64, 64))
    assert measure([other], known={other: facts})[other].bucket == Size(64, 64)
    save_mask(tmp_path / "mask.png", 60)
    masked = replace(item, mask_path=tmp_path / "mask.png")
    first = measure([masked], known={masked: facts})
    assert first[masked].mask_share == 0.25
    assert len(decoded) == 3
    assert measure([masked], known=first) == first
    assert len(decoded) == 3
    save_mask(tmp_path / "mask.png", 120)
    assert measure([masked], known=first)[masked].mask_share == 0.5
    assert len(decoded) == 4


@pytest.mark.parametrize("share", [None, 0.25])
def test_facts_come_back_from_a_json_record_that_may_hold_more(share):
    facts = Facts(
        bucket=BUCKET, mask="ab", pixels="cd", sharpness=7.0, perceptual_hash=1 << 63, mask_share=share
    )
    record = json.loads(json.dumps({"frames": 2, **to_record(facts)}))
    assert from_record(record) == facts


@pytest.mark.parametrize("name", ["bucket", "mask", "pixels", "sharpness", "perceptual_hash", "mask_share"])
@pytest.mark.parametrize("value", [[], "x", {}, [1, "2"]])
def test_a_record_of_another_form_is_no_facts(name, value):
    facts = Facts(bucket=BUCKET, mask="", pixels="", sharpness=7.0, perceptual_hash=0, mask_share=None)
    record = to_record(facts)
    assert from_record({**record, name: value}) is None or (isinstance(record[name], str) and value == "x")
    del record[name]
    assert from_record(record) is None


def test_a_picture_that_went_bad_since_it_was_looked_at_is_named(pictures):
    pictures[1].image_path.write_bytes(b"")
    with pytest.raises(ProblemsFound) as found:
        measure(pictures)
    (problem,) = found.value.problems
    assert f"{pictures[1].image_path} has 0 bytes" in problem.what


def test_a_mask_that_went_bad_is_named_and_an_alpha_channel_is_a_mask(pictures, tmp_path):
    item, other, _ = pictures
    Image.fromarray(np.full((240, 320, 4), 51, np.uint8)).save(item.image_path)
    own = replace(item, mask_path=item.image_path)
    assert measure([own])[own].mask_share == 0.2
    masked = replace(other, mask_path=tmp_path / "mask.png")
    masked.mask_path.write_bytes(b"no picture")
    with pytest.raises(ProblemsFound, match=r"mask\.png is not an image"):
        measure([masked])
