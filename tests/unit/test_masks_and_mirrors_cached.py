"""Masks and mirrored pictures lie in the entry of their picture, and come from there into batches."""

from dataclasses import replace

import pytest
import torch
from encoded_items import Averaging, cache, item_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from dataset.batch import Example, load_batch
from dataset.buckets import Size
from dataset.cache import LATENTS, MASK, MIRRORED, read_latents, read_picture
from dataset.problems import ProblemsFound

NAMES = {"w_vec": "words"}
BUCKET = Size(32, 48)


def draw(folder, name="a"):
    image = Image.linear_gradient("L").resize((48, 32)).rotate(30)
    image = Image.merge("RGB", (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image))
    image.save(folder / f"{name}.png")
    return folder / f"{name}.png"


def draw_mask(folder, name="a_mask", *, white=(0, 0, 16, 8)):
    image = Image.new("L", (48, 32))
    image.paste(255, white)
    image.save(folder / f"{name}.png")
    return folder / f"{name}.png"


def made(folder, name="a", **changes):
    return item_of(draw(folder, name), folder=folder, bucket=BUCKET, **changes)


def batch_of(*examples):
    return load_batch(examples, names=NAMES)


def mask_of(*examples):
    mask = batch_of(*examples).mask
    assert mask is not None
    return mask


def test_the_mask_is_stored_with_the_latents_under_a_name_of_musubis_kind(tmp_path):
    one = made(tmp_path, mask_path=draw_mask(tmp_path), flip=True)
    cache([one])
    names = {"latents_1x4x6_float32", "latents_mirrored_1x4x6_float32", "latents_mask_1x4x6_float32"}
    stored = load_file(one.latent_cache)
    assert stored.keys() == names
    # musubi-tuner's rule: without the type, and without the shape where "latents_" stands in front.
    assert {name.rsplit("_", 2)[0] for name in names} == {LATENTS, MIRRORED, MASK}
    assert read_picture(one.latent_cache, [MASK])[MASK].shape == (1, 4, 6)
    expected = torch.zeros(1, 4, 6)
    expected[:, 0, :2] = 1
    assert torch.equal(read_picture(one.latent_cache, [MASK])[MASK], expected)


def test_an_entry_without_mask_and_mirror_is_as_before(tmp_path):
    one = made(tmp_path)
    cache([one])
    with safe_open(one.latent_cache, framework="pt") as file:
        assert list(file.keys()) == ["latents_1x4x6_float32"]
        parts = {name for name in file.metadata() if name.startswith("fingerprint_")}
    assert parts == {"fingerprint_picture", "fingerprint_encoder", "fingerprint_settings"}
    assert batch_of(Example(item=one)).mask is None


def test_a_mask_weighs_from_the_unmasked_weight_to_one(tmp_path):
    one = made(tmp_path, mask_path=draw_mask(tmp_path, white=(0, 0, 12, 8)), unmasked_weight=0.2)
    cache([one])
    weights = mask_of(Example(item=one))[0, 0, 0]
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.6, 0.2, 0.2, 0.2, 0.2]))
    plain = replace(one, unmasked_weight=0.0)
    assert cache([plain]).sound == 1
    assert mask_of(Example(item=plain))[0, 0, 0].tolist() == [1.0, 0.5, 0, 0, 0, 0]


def test_masked_and_unmasked_pictures_go_together(tmp_path):
    masked, whole = made(tmp_path, "a", mask_path=draw_mask(tmp_path)), made(tmp_path, "b")
    cache([masked, whole])
    first, second = mask_of(Example(item=whole), Example(item=masked))
    assert first.shape == second.shape == (1, 4, 6)
    assert first.unique().tolist() == [1.0]
    assert second.sum() == 2


def test_a_batch_of_two_equals_two_of_one(tmp_path):
    masked = made(tmp_path, "a", mask_path=draw_mask(tmp_path), flip=True)
    examples = [Example(item=masked, mirrored=True), Example(item=made(tmp_path, "b"))]
    cache([example.item for example in examples])
    both, first, second = batch_of(*examples), batch_of(examples[0]), batch_of(examples[1])
    assert torch.equal(both.latents, torch.cat([first.latents, second.latents]))
    assert second.mask is None
    own = mask_of(examples[0])
    assert torch.equal(mask_of(*examples), torch.cat([own, torch.ones_like(own)]))


def test_the_mirrored_picture_is_encoded_and_not_its_latents_turned(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Averaging, "encode", lambda _, pixels: seen.append(pixels) or pixels[:, :1, ::8, ::8])
    one = made(tmp_path, flip=True)
    cache([one])
    plain, mirrored = seen
    assert torch.equal(mirrored, plain.flip(-1))
    found = read_picture(one.latent_cache, [LATENTS, MIRRORED])
    assert torch.equal(found[MIRRORED], mirrored[0, :1, ::8, ::8])
    assert not torch.equal(found[MIRRORED], found[LATENTS].flip(-1))


def test_a_mirrored_example_reads_the_mirrored_latents_and_turns_its_mask(tmp_path):
    one = made(tmp_path, mask_path=draw_mask(tmp_path), flip=True)
    cache([one])
    plain, mirrored = batch_of(Example(item=one)), batch_of(Example(item=one, mirrored=True))
    torch.testing.assert_close(mirrored.latents, plain.latents.flip(-1))
    turned, as_it_is = mask_of(Example(item=one, mirrored=True)), mask_of(Example(item=one))
    assert torch.equal(turned, as_it_is.flip(-1))
    assert not torch.equal(turned, as_it_is)


def test_a_changed_mask_redoes_just_its_entry_and_says_so(tmp_path):
    items = [made(tmp_path, name, mask_path=draw_mask(tmp_path, f"{name}_mask")) for name in ("a", "b", "c")]
    assert cache(items).made == 3
    draw_mask(tmp_path, "b_mask", white=(0, 8, 16, 32))
    count = cache(items)
    assert (count.sound, count.redone) == (2, {"the mask changed": ["b"]})
    assert cache(items).sound == 3


def test_an_entry_without_the_mask_is_redone_when_there_is_one(tmp_path):
    one = made(tmp_path)
    cache([one])
    masked = replace(one, mask_path=draw_mask(tmp_path))
    assert cache([masked]).redone == {"made without a mask": ["a"]}
    assert cache([masked]).sound == 1
    assert cache([one]).sound == 1
    assert batch_of(Example(item=one)).mask is None


def test_a_picture_that_becomes_its_own_mask_is_encoded_again(tmp_path):
    one = made(tmp_path, mask_path=draw_mask(tmp_path))
    Image.open(one.image_path).convert("RGBA").save(one.image_path)
    cache([one])
    assert cache([replace(one, mask_path=one.image_path)]).redone == {"the mask changed": ["a"]}


def test_entries_are_redone_when_mirroring_is_switched_on_and_only_then(tmp_path):
    one = made(tmp_path)
    cache([one])
    both = replace(one, flip=True)
    assert cache([both]).redone == {"made without the mirrored picture": ["a"]}
    before = one.latent_cache.read_bytes()
    assert cache([one]).sound == 1
    assert cache([both]).sound == 1
    assert one.latent_cache.read_bytes() == before


def test_a_picture_that_is_not_mirrored_any_more_reads_its_plain_latents_from_an_entry_of_both(tmp_path):
    both = made(tmp_path, flip=True)
    cache([both])
    plain = replace(both, flip=False)
    found = batch_of(Example(item=plain))
    assert torch.equal(found.latents[0], read_latents(both.latent_cache))


def test_an_entry_that_lacks_what_is_asked_for_is_named(tmp_path):
    one = made(tmp_path)
    cache([one])
    with pytest.raises(ProblemsFound, match="holds no latents_mirrored"):
        batch_of(Example(item=replace(one, flip=True), mirrored=True))
    with pytest.raises(ProblemsFound, match="holds no latents_mask"):
        batch_of(Example(item=replace(one, mask_path=tmp_path / "m.png")))
