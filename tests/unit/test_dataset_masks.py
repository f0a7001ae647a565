"""Masks are found, fit their pictures, or are refused by name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.buckets import Size
from dataset.config import DatasetConfig, parse_datasets
from dataset.masks import decode_mask, latent_mask
from dataset.problems import ProblemsFound
from dataset.scan import scan

ORIENTATION = 0x0112


def draw(path, *, width=32, height=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)
    path.with_suffix(".txt").write_text("a cat")
    return path


def mask(path, *, width=32, height=32, white=(0, 0, 16, 16), mode="L"):
    """Draw a black mask with one white block, given as left, top, right, bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, (width, height))
    image.paste(Image.new(mode, (white[2] - white[0], white[3] - white[1]), "white"), white[:2])
    image.save(path)
    return path


def levels_of(path, picture):
    levels = decode_mask(path, picture=picture)
    assert levels is not None
    return levels


@pytest.fixture
def photos(tmp_path):
    for name in ("a", "b", "c"):
        draw(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def look(photos, **changes):
    given = {"image_directory": photos, "cache_directory": photos.parent / "cache", **changes}
    config = DatasetConfig(**{"resolution": Size(32, 32), **given})
    return scan([config], code="fd", bucket_step=16)


def refusal(photos, **changes):
    with pytest.raises(ProblemsFound) as found:
        look(photos, **changes)
    (problem,) = found.value.problems
    assert problem.code == "E14"
    return problem


def masks_of(found):
    return [item.mask_path and item.mask_path.name for item in found.items]


def notes_of(found):
    notes = [note.partition(": ")[2] for note in found.notes]
    return [note for note in notes if "mask" in note.partition(": ")[0] or "without a picture" in note]


def test_masks_lie_in_a_folder_under_their_pictures_names_in_any_format(photos, tmp_path):
    masks = tmp_path / "masks"
    names = ["a.png", "b.JPG", "c.webp"]
    for name in names:
        mask(masks / name)
    found = look(photos, mask_directory=masks)
    assert masks_of(found) == names
    assert notes_of(found) == [f"masks: 3 of 3 found in {masks}"]


def test_masks_beside_the_pictures_are_no_pictures_themselves(photos):
    for name in ("a_mask.png", "b_mask.jpg", "c_mask.png"):
        mask(photos / name)
    found = look(photos, mask_suffix="_mask")
    assert [item.key for item in found.items] == ["a", "b", "c"]
    assert masks_of(found) == ["a_mask.png", "b_mask.jpg", "c_mask.png"]
    assert notes_of(found) == ["masks: 3 of 3 found beside the pictures, by the suffix _mask"]


def test_masks_in_a_folder_among_the_pictures_are_no_pictures(photos):
    for name in ("a", "b", "c"):
        mask(photos / "masks" / f"{name}.png")
    found = look(photos, mask_directory=photos / "masks", recursive=True)
    assert [item.key for item in found.items] == ["a", "b", "c"]
    assert masks_of(found) == ["a.png", "b.png", "c.png"]


def test_pictures_in_a_folder_among_the_masks_are_pictures(photos):
    for name in ("a", "b", "c"):
        mask(photos.parent / f"{name}.png")
    assert masks_of(look(photos, mask_directory=photos.parent)) == ["a.png", "b.png", "c.png"]


def test_the_mask_of_a_picture_in_a_sub_folder_lies_in_the_same_sub_folder(photos, tmp_path):
    draw(photos / "sub" / "d.png")
    masks = tmp_path / "masks"
    for name in ("a", "b", "c", "d"):
        mask(masks / f"{name}.png")
    assert "have no mask: sub/d.png" in refusal(photos, mask_directory=masks, recursive=True).what
    (masks / "sub").mkdir()
    (masks / "d.png").rename(masks / "sub" / "d.png")
    found = look(photos, mask_directory=masks, recursive=True)
    assert {item.mask_path for item in found.items} >= {masks / "a.png", masks / "sub" / "d.png"}
    assert notes_of(found) == [f"masks: 4 of 4 found in {masks}"]


def test_the_pictures_of_a_list_have_masks_too(photos, tmp_path):
    lines = [{"image_path": str(photos / f"{name}.png"), "caption": "a cat"} for name in ("a", "b")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("a", "b"):
        mask(tmp_path / "masks" / f"{name}.png")
        mask(photos / f"{name}_m.png")
    from_list = {"image_directory": None, "image_jsonl_file": tmp_path / "list.jsonl"}
    assert masks_of(look(photos, mask_directory=tmp_path / "masks", **from_list)) == ["a.png", "b.png"]
    assert masks_of(look(photos, mask_suffix="_m", **from_list)) == ["a_m.png", "b_m.png"]


def test_a_suffix_that_makes_every_picture_a_mask_is_refused(photos):
    for name in ("a", "b", "c"):
        (photos / f"{name}.png").rename(photos / f"{name}_x.png")
    assert "All 3 pictures" in refusal(photos, mask_suffix="_x").what


def test_the_alpha_channel_is_a_mask_and_the_colours_stay_flattened_on_white(photos):
    for name in ("a", "b", "c"):
        image = Image.new("RGBA", (32, 32), (10, 20, 30, 255))
        image.paste((0, 0, 0, 0), (0, 0, 16, 32))
        image.save(photos / f"{name}.png")
    found = look(photos, alpha_mask=True)
    assert [item.mask_path for item in found.items] == [item.image_path for item in found.items]
    assert notes_of(found) == ["masks: 3 of 3 found in the alpha channels"]
    levels = levels_of(photos / "a.png", photos / "a.png")
    assert (levels[:, :16].max(), levels[:, 16:].min()) == (0, 255)


def test_without_masks_no_item_has_one(photos):
    assert masks_of(look(photos)) == [None, None, None]
    assert notes_of(look(photos)) == []


def test_pictures_without_a_mask_are_refused_by_name_with_where_it_was_looked_for(photos, tmp_path):
    mask(tmp_path / "masks" / "b.png")
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert problem.what == f"2 of 3 pictures in {photos} have no mask: a.png, c.png."
    assert f"{tmp_path / 'masks'}/<picture's name>.png" in problem.remedy
    assert 'missing_mask = "whole_image"' in problem.remedy
    assert "3 of 3 pictures" in refusal(photos, alpha_mask=True).what
    mask(photos / "b_m.png")
    assert "have no mask: a.png, c.png" in refusal(photos, mask_suffix="_m").what


def test_missing_masks_can_be_allowed_and_are_named(photos, tmp_path):
    mask(tmp_path / "masks" / "b.png")
    found = look(photos, mask_directory=tmp_path / "masks", missing_mask="whole_image")
    assert masks_of(found) == [None, "b.png", None]
    assert notes_of(found) == [
        f"masks: 1 of 3 found in {tmp_path / 'masks'}",
        "trained whole, without a mask: a.png, c.png",
    ]


def test_masks_of_another_size_or_ratio_are_refused_with_both_sizes(photos, tmp_path):
    for name in ("a", "b", "c"):
        mask(tmp_path / "masks" / f"{name}.png")
    mask(tmp_path / "masks" / "a.png", width=16, height=16, white=(0, 0, 4, 4))
    mask(tmp_path / "masks" / "c.png", width=32, height=48)
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert problem.what.startswith(f"2 masks in {photos} cannot be used:")
    assert "a.png is 32 x 32, its mask a.png 16 x 16" in problem.what
    assert "c.png is 32 x 32, its mask c.png 32 x 48" in problem.what


def test_a_mask_that_cannot_be_read_is_refused_with_the_reason(photos, tmp_path):
    for name in ("a", "b", "c"):
        mask(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "masks" / "b.png").write_bytes(b"<html>")
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert "b.png: its mask b.png is not an image (it is an HTML page)" in problem.what


def test_two_masks_of_one_picture_are_refused(photos, tmp_path):
    for name in ("a.png", "b.png", "c.png", "b.jpg"):
        mask(tmp_path / "masks" / name)
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert "b.png has several masks: b.jpg, b.png" in problem.what


def test_a_black_mask_is_refused_and_also_one_whose_white_is_cut_away(photos, tmp_path):
    draw(photos / "c.png", width=96, height=32)
    mask(tmp_path / "masks" / "a.png", white=(0, 0, 0, 0))
    mask(tmp_path / "masks" / "b.png", white=(3, 3, 4, 4))
    mask(tmp_path / "masks" / "c.png", width=96, white=(0, 0, 30, 32))
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert "The masks of 2 pictures" in problem.what
    assert problem.what.endswith("leaves nothing to learn: a.png, c.png.")
    mask(tmp_path / "masks" / "c.png", width=96, white=(0, 0, 33, 32))
    assert refusal(photos, mask_directory=tmp_path / "masks").what.endswith("to learn: a.png.")


def test_a_black_mask_is_only_told_where_black_counts_too(photos, tmp_path):
    for name in ("a", "b", "c"):
        mask(tmp_path / "masks" / f"{name}.png", white=(0, 0, 0, 0))
    found = look(photos, mask_directory=tmp_path / "masks", unmasked_weight=0.2)
    assert "all of it counts 0.2: a.png, b.png, c.png" in notes_of(found)[1]


def test_masks_of_zero_and_one_are_black(photos, tmp_path):
    for name in ("a", "b"):
        mask(tmp_path / "masks" / f"{name}.png")
    Image.fromarray(np.tile(np.array([0, 1], np.uint8), (32, 16))).save(tmp_path / "masks" / "c.png")
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert "nothing to learn: c.png" in problem.what
    assert "255, not 1, in the red channel" in problem.remedy


def test_masks_under_other_names_or_of_other_kinds_are_named_where_masks_are_missing(photos, tmp_path):
    mask(tmp_path / "masks" / "A.png")
    mask(tmp_path / "masks" / "b_mask.png")
    mask(tmp_path / "masks" / "c.gif")
    problem = refusal(photos, mask_directory=tmp_path / "masks")
    assert "Without a picture of their name lie there: A.png, b_mask.png, c.gif." in problem.remedy


def test_masks_beside_the_folder_of_pictures_that_nobody_asks_for_are_told(photos, tmp_path):
    mask(tmp_path / "masks" / "a.png")
    mask(tmp_path / "masks" / "other.png")
    (note,) = [note for note in look(photos).notes if "not used" in note]
    line = f'mask_directory = "{(tmp_path / "masks").as_posix()}"'
    assert note.endswith(f"1 mask in {tmp_path / 'masks'} not used; to use them:  {line}")


def test_pictures_called_like_masks_are_told_and_offered_where_their_captions_are_missing(photos):
    mask(photos / "a_mask.png")
    (note,) = [note for note in look(photos, missing_caption="x").notes if "called like masks" in note]
    assert note.endswith('if they are masks:  mask_suffix = "_mask"')
    with pytest.raises(ProblemsFound) as found:
        look(photos)
    assert 'mask_suffix = "_mask"' in found.value.problems[0].remedy


def test_white_masks_and_masks_without_a_picture_are_told(photos, tmp_path):
    mask(tmp_path / "masks" / "a.png")
    mask(tmp_path / "masks" / "b.png", white=(0, 0, 32, 32))
    for name in ("c", "d", "e"):
        mask(tmp_path / "masks" / f"{name}.png")
    notes = notes_of(look(photos, mask_directory=tmp_path / "masks"))
    assert notes[1:] == [
        "masks that are white all over and change nothing: b.png",
        "2 masks without a picture: d.png, e.png",
    ]
    for name in ("a", "b", "c", "d"):
        mask(photos / f"{name}_mask.png")
    assert notes_of(look(photos, mask_suffix="_mask"))[1:] == ["1 mask without a picture: d_mask.png"]


def test_a_mask_folder_that_is_none_or_that_of_the_pictures_is_refused(photos, tmp_path):
    assert "does not exist" in refusal(photos, mask_directory=tmp_path / "none").what
    (tmp_path / "file").touch()
    assert "is a file" in refusal(photos, mask_directory=tmp_path / "file").what
    assert 'mask_suffix = "_mask"' in refusal(photos, mask_directory=photos).remedy


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_every_kind_of_picture_is_read_by_its_brightness(tmp_path, mode):
    grey = Image.new("L", (4, 4))
    grey.paste(255, (0, 0, 2, 4))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    image = deep if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "m.png")
    levels = levels_of(tmp_path / "m.png", tmp_path / "a.png")
    assert np.array_equal(levels, np.asarray(grey))


def test_of_a_coloured_mask_the_red_channel_counts_and_what_is_transparent_is_black(tmp_path):
    Image.new("RGB", (2, 2), (51, 255, 0)).save(tmp_path / "red.png")
    Image.new("RGBA", (2, 2), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    picture = tmp_path / "a.png"
    assert levels_of(tmp_path / "red.png", picture).tolist() == [[51, 51], [51, 51]]
    assert levels_of(tmp_path / "clear.png", picture).max() == 0


def test_a_mask_is_turned_upright_as_a_picture_is(tmp_path):
    image, exif = Image.new("L", (3, 2)), Image.Exif()
    image.putpixel((0, 0), 255)
    exif[ORIENTATION] = 6
    image.save(tmp_path / "m.png", exif=exif)
    levels = levels_of(tmp_path / "m.png", tmp_path / "a.png")
    assert levels.tolist() == [[0, 255], [0, 0], [0, 0]]


def test_a_mask_is_averaged_over_the_place_of_each_latent():
    levels = np.zeros((16, 32), np.uint8)
    levels[:8, :8] = 255
    levels[8:, 16:20] = 255
    weights = latent_mask(levels, bucket=Size(16, 32), latents=(2, 4))
    assert torch.equal(weights, torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0.5, 0]]]))


def parse(text_rows, **general):
    rows = [{"image_directory": f"photos{number}", **row} for number, row in enumerate(text_rows)]

    def where(key, index):
        return f"{key} of {'general' if index is None else index + 1}"

    try:
        parse_datasets({"general": general, "datasets": rows}, where=where, bucket_step=16)
    except ProblemsFound as found:
        return [problem.what for problem in found.problems]
    return []


def test_two_sources_of_masks_are_refused():
    (said,) = parse([{"mask_directory": "m", "alpha_mask": True}])
    assert said == (
        "One dataset has masks from several sources:"
        " mask_directory (mask_directory of 1) and alpha_mask (alpha_mask of 1)."
    )
    assert parse([{"mask_directory": "m", "alpha_mask": False}], alpha_mask=True) == []
    assert len(parse([{"mask_directory": "m"}], mask_suffix="_mask")) == 1


@pytest.mark.parametrize(("key", "value"), [("missing_mask", "whole_image"), ("unmasked_weight", 0.5)])
def test_a_word_on_masks_without_masks_is_refused_as_without_effect(key, value):
    (said,) = parse([{key: value}])
    assert f"in {key} of 1 has no effect without masks" in said
    (said,) = parse([{}, {}], **{key: value})
    assert f"in {key} of general has no effect without masks" in said
    assert parse([{}, {"alpha_mask": True}], **{key: value}) == []
    assert parse([{"mask_suffix": "_m", key: value}]) == []


def test_a_slip_in_the_source_is_told_once():
    (said,) = parse([{"mask_directry": "m", "unmasked_weight": 0.5}])
    assert 'Unknown setting "mask_directry"' in said


def test_missing_mask_knows_one_value_and_masks_must_have_an_effect():
    (said,) = parse([{"alpha_mask": True, "missing_mask": "skip"}])
    assert said == 'missing_mask = "skip" in missing_mask of 1 is not offered.'
    (said,) = parse([{"alpha_mask": True, "unmasked_weight": 1}])
    assert "takes the effect from the masks" in said


def test_masked_loss_of_sd_scripts_must_agree_with_the_masks():
    assert parse([{"alpha_mask": True}], masked_loss=True) == []
    assert parse([{}], masked_loss=False) == []
    (said,) = parse([{}], masked_loss=True)
    assert said == "masked_loss = true in masked_loss of general, but there are no masks."
    (said,) = parse([{"alpha_mask": True}], masked_loss=False)
    assert said == "masked_loss = false in masked_loss of general, but there are masks, and they act."
    (said,) = parse([{"masked_loss": True}, {"alpha_mask": True}])
    assert "of 1, but there are no masks" in said


def test_a_mask_suffix_has_no_extension():
    (said,) = parse([{"mask_suffix": "_mask.PNG"}])
    assert said.startswith('mask_suffix = "_mask.PNG" in mask_suffix of 1 has an extension')
