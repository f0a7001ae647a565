"""What is found in a picture folder, what is left out, and what is said of the rest."""

import os
from pathlib import Path

import pytest
from picture_files import as_picture, encoded, noise

from dataset.buckets import Size
from dataset.config import DatasetConfig
from dataset.problems import ProblemsFound
from dataset.scan import scan

PNG = encoded(as_picture(noise(32, 32)))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(path, content=PNG, *, caption: str | None = "a cat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def config(folder, **changes):
    given = {
        "cache_directory": Path("cache"),
        "resolution": Size(32, 32),
        "image_directory": folder,
        **changes,
    }
    return DatasetConfig(**given)


def run(*configs):
    return scan(configs, code="fd", bucket_step=16)


def problems_of(*configs):
    with pytest.raises(ProblemsFound) as found:
        run(*configs)
    return found.value.problems


def only_problem(*configs):
    (problem,) = problems_of(*configs)
    return problem


def keys(scanned):
    return [item.key for item in scanned.items]


def test_pictures_without_or_with_an_unknown_suffix_are_found_and_counted(photos):
    put(photos / "a.png")
    put(photos / "b", caption="b")
    put(photos / "c.jfif", encoded(as_picture(noise(32, 32)), "JPEG"))
    put(photos / "d.gif")
    scanned = run(config(photos))
    assert keys(scanned) == ["a", "b", "c", "d"]
    assert f"{photos}: 3 pictures told by the content, not by the name: b, c.jfif, d.gif" in scanned.notes


def test_every_picture_of_a_kind_that_is_not_read_is_refused_with_one_thing_to_do(photos):
    put(photos / "a.png")
    for name in "bcdefgh":
        put(photos / f"{name}.HEIC", b"")
    put(photos / "scan.dat", encoded(as_picture(noise(8, 8)), "TIFF"))
    put(photos / "x.jpg", encoded(as_picture(noise(8, 8)), "GIF"))
    problem = only_problem(config(photos))
    assert problem.code == "E11"
    assert f"9 pictures in {photos} of kinds that are not read: " in problem.what
    assert "1 GIF (x.jpg)" in problem.what
    assert "7 HEIC (b.HEIC, c.HEIC, d.HEIC, e.HEIC, f.HEIC and 2 more)" in problem.what
    assert "1 TIFF (scan.dat)" in problem.what
    assert problem.remedy.startswith("Save each as .jpg or .png")
    assert "skip_unreadable = true" in problem.remedy


def test_a_folder_of_photos_from_a_phone_is_refused_by_their_kind_not_as_empty(photos):
    put(photos / "IMG_1001.HEIC", b"")
    problem = only_problem(config(photos))
    assert (problem.code, "1 HEIC (IMG_1001.HEIC)" in problem.what) == ("E11", True)


def test_bad_and_foreign_pictures_are_left_out_when_asked_counted_and_named(photos):
    put(photos / "a.png")
    put(photos / "b.png", PNG[:-30], caption=None)
    put(photos / "c.heic", b"", caption=None)
    put(photos / "d.jpg", encoded(as_picture(noise(8, 8)), "GIF"), caption=None)
    put(photos / "f.psd", b"")
    (photos / "e.png").symlink_to(photos / "gone.png")
    assert sorted(p.code for p in problems_of(config(photos))) == ["E08", "E10", "E11"]
    scanned = run(config(photos, skip_unreadable=True))
    assert keys(scanned) == ["a"]
    assert f"{photos}: 1 picture" in scanned.notes
    (note,) = [note for note in scanned.notes if "left out" in note]
    assert not any("without a picture" in note for note in scanned.notes)
    assert note.startswith(f"{photos}: 5 pictures left out, as they cannot be read: b.png (ends early")
    assert "c.heic (HEIC), d.jpg (GIF), e.png (does not exist" in note
    assert note.endswith("f.psd (Photoshop)")


def test_when_no_picture_can_be_read_nothing_is_trained_on(photos):
    put(photos / "a.png", b"")
    put(photos / "b.psd", b"")
    problem = only_problem(config(photos, skip_unreadable=True))
    assert problem.code == "E06"
    assert f"None of the 2 pictures in {photos} can be read" in problem.what


def test_a_link_that_leads_nowhere_is_named(photos):
    put(photos / "a.png")
    (photos / "b.png").symlink_to(photos / "gone.png")
    assert "b.png   does not exist" in problems_of(config(photos))[0].what


def test_sub_folders_are_read_when_asked_but_hidden_ones_are_not(photos):
    put(photos / "z.png")
    put(photos / "cats" / "01.png")
    put(photos / "cats" / "old" / "01.png")
    put(photos / "dogs" / "01.jpg", encoded(as_picture(noise(32, 32)), "JPEG"))
    put(photos / ".thumbnails" / "01.png")
    put(photos / "cats" / "__MACOSX" / "01.png")
    scanned = run(config(photos, recursive=True))
    assert keys(scanned) == ["cats/01", "cats/old/01", "dogs/01", "z"]
    assert f"{photos}: ignored: 0 other files, 2 hidden" in scanned.notes
    by_key = {item.key: item for item in scanned.items}
    assert by_key["cats/01"].latent_cache == Path("cache/cats/01_0032x0032_fd.safetensors")
    assert by_key["cats/01"].captions[0].cache == Path("cache/cats/01_fd_te.safetensors")


def test_two_pictures_of_one_stem_clash_only_within_a_folder(photos):
    put(photos / "cats" / "01.png")
    put(photos / "dogs" / "01.png")
    put(photos / "dogs" / "01.bmp", encoded(as_picture(noise(32, 32)), "BMP"))
    problem = only_problem(config(photos, recursive=True))
    assert problem.code == "E12"
    assert "up: dogs/01.bmp and dogs/01.png." in problem.what


def test_captions_of_sub_folders_lie_beside_the_picture_or_mirrored(photos, tmp_path):
    put(photos / "cats" / "01.png", caption="beside")
    put(photos / "dogs" / "01.png", caption="beside too")
    assert [item.caption for item in run(config(photos, recursive=True)).items] == ["beside", "beside too"]
    for name in ("cats/01.txt", "dogs/01.txt", "dogs/02.txt"):
        put(tmp_path / "texts" / name, f"mirrored {name}".encode(), caption=None)
    scanned = run(config(photos, recursive=True, caption_directory=tmp_path / "texts"))
    assert [item.caption for item in scanned.items] == ["mirrored cats/01.txt", "mirrored dogs/01.txt"]
    assert f"{photos}: 1 caption file without a picture: 02.txt" in scanned.notes


def test_missing_captions_of_sub_folders_are_named_with_their_folder_and_what_is_there(photos):
    put(photos / "cats" / "01.png", caption=None)
    (photos / "cats" / "01.caption").write_text("a cat")
    put(photos / "dogs" / "01.png")
    problem = only_problem(config(photos, recursive=True))
    assert "(.txt): cats/01.png." in problem.what
    assert 'caption_extension = ".caption"' in problem.remedy


def test_a_link_back_to_the_folder_is_followed_once(photos):
    put(photos / "cats" / "01.png")
    (photos / "cats" / "again").symlink_to(photos, target_is_directory=True)
    assert keys(run(config(photos, recursive=True))) == ["cats/01"]


def test_the_caches_are_no_pictures_wherever_they_lie(photos):
    put(photos / "01.png")
    put(photos / "cache" / "sheet.png")
    assert keys(run(config(photos, recursive=True, cache_directory=photos / "cache"))) == ["01"]


def test_sub_folders_with_pictures_are_noted_when_they_are_not_read(photos):
    put(photos / "a.png")
    put(photos / "old" / "a.png")
    assert f"{photos}: sub-folders are not read: old (1 picture)" in run(config(photos)).notes


def test_a_parent_of_picture_folders_is_recognised_with_its_repeats(photos):
    put(photos / "10_cat" / "a.png")
    put(photos / "10_cat" / "b.png")
    put(photos / "old" / "a.png")
    (photos / "empty").mkdir()
    (photos / "notes.txt").write_text("a stray file")
    problem = only_problem(config(photos))
    assert problem.code == "E07"
    assert "10_cat (2 pictures), old (1 picture)" in problem.what
    assert f'image_directory = "{(photos / "10_cat").as_posix()}"\nnum_repeats = 10\n' in problem.remedy
    assert problem.remedy.endswith("To train on all 3 in one dataset:  recursive = true")


def test_a_parent_of_repeated_folders_is_recognised_beside_a_stray_picture(photos):
    for name in "abc":
        put(photos / "10_cat" / f"{name}.png")
    put(photos / "preview.png")
    assert only_problem(config(photos)).code == "E07"
    assert len(run(config(photos, recursive=True)).items) == 4
    for name in "bcd":
        put(photos / f"{name}.png")
    assert len(run(config(photos)).items) == 4


def test_pictures_captions_and_masks_in_folders_of_their_own_are_recognised(photos):
    put(photos / "Images" / "a.png", caption=None)
    put(photos / "captions" / "a.txt", b"a cat", caption=None)
    put(photos / "masks" / "a.png", caption=None)
    problem = only_problem(config(photos))
    assert problem.code == "E07"
    lines = problem.remedy.splitlines()[1:]
    assert lines == [
        f'image_directory = "{(photos / "Images").as_posix()}"',
        f'caption_directory = "{(photos / "captions").as_posix()}"',
        f'mask_directory = "{(photos / "masks").as_posix()}"',
    ]
    assert run(config(photos / "Images", caption_directory=photos / "captions")).items


def test_a_folder_called_images_alone_is_a_sub_folder_like_any_other(photos):
    put(photos / "images" / "a.png")
    assert "[[datasets]]" in only_problem(config(photos)).remedy


def test_captions_in_a_folder_beside_that_of_the_pictures_are_offered(photos):
    put(photos / "images" / "a.png", caption=None)
    put(photos / "captions" / "a.txt", b"a cat", caption=None)
    problem = only_problem(config(photos / "images"))
    assert problem.code == "E08"
    assert f'caption_directory = "{(photos / "captions").as_posix()}"' in problem.remedy.splitlines()[0]


@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_that_may_not_be_read_gives_a_message(photos, monkeypatch, inner):
    put(photos / "a.png")
    put(photos / "cats" / "a.png")
    refused = photos / "cats" if inner else photos
    iterdir = Path.iterdir

    def refuse(path):
        if path == refused:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    problem = only_problem(config(photos, recursive=True))
    assert problem.code == "E06"
    assert f"The folder {refused} cannot be read (Permission denied)" in problem.what


def test_an_empty_folder_and_one_with_a_single_picture(photos):
    assert "0 pictures, nothing else" in only_problem(config(photos)).what
    put(photos / "a.png")
    assert keys(run(config(photos))) == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "\u00fcn\u00efc\u00f6d\u00e9",
        "\u732b\u306e\u5199\u771f",
        "\U0001f408 \u2764\ufe0f",
        "[x] {y} 'z' #1",
        "a.b.c",
        "-r",
    ],
)
def test_names_of_every_kind_are_read(photos, name):
    folder = photos / name
    put(folder / f"{name}.png", caption=name)
    (item,) = run(config(folder, exclude=())).items
    assert (item.key, item.caption) == (name, name)
    (item,) = run(config(photos, recursive=True)).items
    assert item.key == f"{name}/{name}"


@pytest.mark.parametrize("written", ["phtos", "'photos'", "$HERE/photos", ".\\photos"])
def test_a_folder_that_was_meant_is_offered(photos, monkeypatch, written):
    monkeypatch.chdir(photos.parent)
    monkeypatch.setenv("HERE", str(photos.parent))
    put(photos / "a.png")
    problem = only_problem(config(Path(written)))
    assert "does not exist" in problem.what
    assert problem.remedy.startswith('Write  image_directory = "')
    assert Path(problem.remedy.split('"')[1]).samefile(photos)


def test_a_cache_directory_that_is_a_file_is_refused_before_anything_is_encoded(photos, tmp_path):
    put(photos / "a.png")
    for place in (photos / "a.png", photos / "a.png" / "below"):
        problem = only_problem(config(photos, cache_directory=place))
        assert problem.what == (
            f"The cache_directory {place} cannot be a folder: {photos / 'a.png'} is a file."
        )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (b"caf\xe9.png", r"caf\udce9.png (not in UTF-8)"),
        (b"a\nb.png", r"a\nb.png (holds a control character)"),
        (b"n" * 220 + b".png", "(220 bytes, at most 200)"),
    ],
)
def test_names_that_no_cache_can_have_are_refused(photos, name, why):
    put(photos / os.fsdecode(name))
    problem = only_problem(config(photos))
    assert problem.code == "E12"
    assert why in problem.what


def test_captions_called_after_the_whole_file_are_told(photos):
    put(photos / "a.png", caption=None)
    (photos / "a.png.txt").write_text("a cat")
    problem = only_problem(config(photos))
    assert "1 file called like a.png.txt there. Rename it to a.txt, and so on." in problem.remedy


def test_a_caption_folder_that_is_a_file_is_told_so(photos):
    put(photos / "a.png")
    assert (
        "a.txt is a file (looked from"
        in only_problem(config(photos, caption_directory=photos / "a.txt")).what
    )
