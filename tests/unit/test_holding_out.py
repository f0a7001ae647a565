"""Which pictures are held out of training, and what is refused of them."""

import pytest
from PIL import Image

from dataset.config import parse_datasets
from dataset.holding_out import held_out, trained_too
from dataset.problems import ProblemsFound
from dataset.scan import scan
from host.held_out import check_held_out
from tests.items import small_item
from tests.picture_files import encoded, noise


def files(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(f"bytes of {name}".encode())
    return [folder / name for name in names]


def names(paths):
    return {path.name for path in paths}


def test_pictures_that_are_added_move_no_other_to_the_other_side(tmp_path):
    old = files(tmp_path, [f"old_{number}" for number in range(40)])
    before = held_out(old, share=0.25, seed=42)
    new = files(tmp_path, [f"new_{number}" for number in range(40)])
    after = held_out([*new, *old], share=0.25, seed=42)
    assert 3 <= len(before) <= 20
    assert after & set(old) == before
    assert after - before


def test_a_larger_share_holds_out_the_same_pictures_and_more(tmp_path):
    pictures = files(tmp_path, [str(number) for number in range(60)])
    small, large = (held_out(pictures, share=share, seed=1) for share in (0.1, 0.4))
    assert small < large


def test_the_share_is_kept_on_average(tmp_path):
    pictures = files(tmp_path, [str(number) for number in range(400)])
    assert 60 <= len(held_out(pictures, share=0.2, seed=7)) <= 100


def test_another_seed_holds_out_others(tmp_path):
    pictures = files(tmp_path, [str(number) for number in range(50)])
    assert held_out(pictures, share=0.2, seed=1) != held_out(pictures, share=0.2, seed=2)


def test_where_none_would_be_held_out_one_is_and_with_no_share_none(tmp_path):
    pictures = files(tmp_path, ["a", "b", "c"])
    assert len(held_out(pictures, share=1e-9, seed=0)) == 1
    assert held_out(pictures, share=0.0, seed=0) == frozenset()
    assert held_out(pictures, share=1.0, seed=0) == frozenset(pictures)
    assert held_out([], share=0.5, seed=0) == frozenset()


def test_a_picture_stays_where_it_is_under_another_name_or_in_another_folder(tmp_path):
    pictures = files(tmp_path, [str(number) for number in range(30)])
    held = names(held_out(pictures, share=0.3, seed=5))
    (tmp_path / "moved").mkdir()
    moved = [path.rename(tmp_path / "moved" / f"{path.name}.renamed") for path in pictures]
    assert {name.removesuffix(".renamed") for name in names(held_out(moved, share=0.3, seed=5))} == held


def test_a_copy_among_the_trained_pictures_is_found_by_its_bytes(tmp_path):
    one, two, other = files(tmp_path, ["one", "two", "other"])
    two.write_bytes(one.read_bytes())
    assert trained_too([one, other], [two]) == [two]
    assert trained_too([other], [two]) == []


def photos(folder, count):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(Image.fromarray(noise(64, 64, number))))
        (folder / f"{number}.txt").write_text("a photo")


def scanned(*tables):
    document = {
        "datasets": [{"resolution": 32, "cache_directory": f"c{n}", **t} for n, t in enumerate(tables)]
    }
    return scan(
        parse_datasets(document, where=lambda key, index: key, bucket_step=16), code="toy", bucket_step=16
    )


def test_a_dataset_is_split_and_the_screen_names_the_pictures(tmp_path):
    photos(tmp_path / "photos", 12)
    found = scanned({"image_directory": str(tmp_path / "photos"), "validation_split": 0.3})
    held = [item.key for item in found.items if item.held_out]
    assert 0 < len(held) < 12
    (note,) = [note for note in found.notes if "held out" in note]
    assert f"{len(held)} of 12 pictures are held out of training: {held[0]}.png" in note


def test_a_picture_at_several_resolutions_is_on_one_side_in_all_of_them(tmp_path):
    photos(tmp_path / "photos", 12)
    folder = {"image_directory": str(tmp_path / "photos"), "resolutions": [32, 64], "validation_split": 0.3}
    document = {"datasets": [folder]}
    configs = parse_datasets(document, where=lambda key, index: key, bucket_step=16)
    items = scan(configs, code="toy", bucket_step=16).items
    small, large = ({i.key for i in items if i.held_out and i.dataset == d} for d in (0, 1))
    assert small == large != set()
    assert check_held_out(items, keep_best=True) == []


def test_regularisation_pictures_are_not_held_out_and_asking_for_it_is_refused(tmp_path):
    photos(tmp_path / "photos", 4)
    table = {"image_directory": str(tmp_path / "photos"), "is_reg": True}
    document = {"general": {"validation_split": 0.9}, "datasets": [{"resolution": 32, **table}]}
    configs = parse_datasets(document, where=lambda key, index: key, bucket_step=16)
    assert not any(item.held_out for item in scan(configs, code="toy", bucket_step=16).items)
    with pytest.raises(ProblemsFound, match="regularisation pictures are not held out"):
        scanned({**table, "validation_split": 0.5})


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "0.1"])
def test_a_share_outside_of_zero_to_one_is_refused(tmp_path, value):
    with pytest.raises(ProblemsFound, match="validation_split"):
        scanned({"image_directory": str(tmp_path), "validation_split": value})


def item(folder, name, *, held, **changes):
    (folder / f"{name}.png").write_bytes(changes.pop("content", name).encode())
    return small_item(name, directory=folder, held_out=held, **changes)


def test_a_held_out_picture_that_is_also_trained_on_is_refused_by_name(tmp_path):
    items = [
        item(tmp_path, "a", held=True, content="same"),
        item(tmp_path, "b", held=False, content="same"),
        item(tmp_path, "c", held=False, is_reg=True),
    ]
    (problem,) = check_held_out(items, keep_best=False)
    assert "1 pictures are both held out and trained on" in problem.what
    assert (tmp_path / "a.png").as_posix() in problem.what
    assert check_held_out([items[0], items[2]], keep_best=False)[0].what.endswith("nothing is left to learn.")


def test_keeping_the_best_without_held_out_pictures_is_refused_with_the_line(tmp_path):
    items = [item(tmp_path, "a", held=False)]
    assert check_held_out(items, keep_best=False) == []
    (problem,) = check_held_out(items, keep_best=True)
    assert "keep_best" in problem.what
    assert "validation_split = 0.1" in problem.remedy


def test_of_a_job_without_pictures_nothing_more_is_said():
    assert check_held_out([], keep_best=False) == []
