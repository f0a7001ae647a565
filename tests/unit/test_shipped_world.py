"""The shipped tiny world: what is written, what is refused, and that the installation has it."""

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from host.errors import ConfigError
from host.registry import find_architecture
from musubi_flux_dev.architecture import FLUX_DEV
from musubi_flux_dev.tiny import SETTINGS
from musubi_flux_dev.tiny_world import shipped
from musubi_flux_dev.tiny_world.captions import captions
from musubi_flux_dev.tiny_world.drawing import NEW_WORD
from musubi_flux_dev.tiny_world.scenes import concept_scenes
from musubi_flux_dev.tiny_world.shipped import REBUILD, concept_files, demo, shipped_folder, sound_files
from musubi_flux_dev.tiny_world.text_files import text_files

ROOT = Path(__file__).parents[2]
CONTENTS = {
    "flux1-tiny.safetensors": b"a transformer",
    "ae.safetensors": b"an autoencoder",
    "clip_l.safetensors": b"one encoder",
    "t5xxl.safetensors": b"another",
    "clip_tokenizer/vocab.json": b"{}\r\n",
    "clip_tokenizer/merges.txt": b"",
    "t5_tokenizer/tokenizer.json": b"{}",
}
REAL = pytest.mark.skipif(
    not (shipped_folder() / "hashes.json").is_file(), reason="the world has not been built here"
)


def digits_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def world(tmp_path):
    """A folder of small stand-ins."""
    folder = tmp_path / "files"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    hashes = {name: digits_of(content) for name, content in CONTENTS.items()}
    (folder / "hashes.json").write_text(json.dumps(hashes))
    return folder


def refused(world):
    with pytest.raises(ConfigError) as raised:
        sound_files(world)
    return raised.value.problems


def all_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_demo_is_the_shipped_files_and_twelve_captioned_pictures(world, tmp_path):
    paths = demo(tmp_path / "here", shipped=world)
    assert set(paths) == set(SETTINGS)
    assert all(path.exists() for path in paths.values())
    written = all_bytes(tmp_path / "here")
    assert {name: written[name] for name in CONTENTS} == CONTENTS
    folder = paths["image_directory"]
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 12
    assert len(written) == len(CONTENTS) + 24
    for path, scene in zip(pictures, concept_scenes(), strict=True):
        with Image.open(path) as picture:
            assert picture.size == (scene.width, scene.height)
        text = path.with_suffix(".txt").read_text()
        assert text.strip() in captions(scene)
        assert NEW_WORD in text


def test_the_bytes_are_the_same_each_time_and_sound_files_stay_untouched(world, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    paths = demo(one, shipped=world)
    demo(other, shipped=world)
    assert all_bytes(one) == all_bytes(other)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*.*")}
    paths["dit"].write_bytes(b"a trans")
    picture = next(paths["image_directory"].glob("*.png"))
    picture.unlink()
    demo(one, shipped=world)
    assert all_bytes(one) == all_bytes(other)
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {paths["dit"], picture}


def test_every_phrasing_of_captions_occurs():
    texts = [content.decode().strip() for name, content in concept_files().items() if name.endswith(".txt")]
    scenes = concept_scenes()
    phrasings = [captions(scene).index(text) for scene, text in zip(scenes, texts, strict=True)]
    assert set(phrasings) == set(range(len(captions(scenes[0]))))


def test_missing_and_altered_files_are_named_at_once_with_the_command_that_rebuilds_them(world, tmp_path):
    (world / "ae.safetensors").unlink()
    (world / "flux1-tiny.safetensors").write_bytes(b"a transformeR")
    (world / "clip_tokenizer/vocab.json").write_bytes(b"{}\n")
    problems = refused(world)
    found, expected = digits_of(b"{}\n")[:12], digits_of(CONTENTS["clip_tokenizer/vocab.json"])[:12]
    assert [problem.what for problem in problems] == [
        f"{world}/flux1-tiny.safetensors, a file of the tiny world, is altered: its sha256 begins with "
        f"{digits_of(b'a transformeR')[:12]}, expected is {digits_of(b'a transformer')[:12]}.",
        f"{world}/ae.safetensors, a file of the tiny world, is missing.",
        f"{world}/clip_tokenizer/vocab.json, a file of the tiny world, is altered: its sha256 begins with "
        f"{found}, expected is {expected}.",
    ]
    assert all(problem.remedy.endswith(REBUILD) for problem in problems)
    assert problems[0].remedy.startswith("Remove it")
    with pytest.raises(ConfigError):
        demo(tmp_path / "here", shipped=world)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is missing"),
        ("", "is altered: it is no list"),
        ("[]", "is altered: it is no list"),
        ('{"ae.safetensors": 5}', "is altered: it is no list"),
        (
            "{}",
            "flux1-tiny.safetensors, ae.safetensors, clip_l.safetensors, t5xxl.safetensors, clip_tokenizer",
        ),
        ('{"flux1-tiny.safetensors": "00"}', "is altered: ae.safetensors, clip_l.safetensors"),
    ],
)
def test_a_list_of_hashes_that_is_not_as_built_is_refused(world, content, says):
    (world / "hashes.json").unlink()
    if content is not None:
        (world / "hashes.json").write_text(content)
    (problem,) = refused(world)
    assert str(world / "hashes.json") in problem.what
    assert says in problem.what
    assert problem.remedy.endswith(REBUILD)


def test_the_command_that_rebuilds_is_one_that_there_is():
    words = REBUILD.split()
    assert (ROOT / words[1]).is_file()
    assert (ROOT / words[3]).parent == Path(shipped.__file__).parent
    assert f"    {REBUILD}\n" in (ROOT / words[1]).read_text()


def test_an_installed_package_brings_the_files_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["musubi_flux_dev.tiny_world"]
    for name in [*CONTENTS, "hashes.json"]:
        assert any(Path(f"files/{name}").match(pattern) for pattern in patterns), name
    assert not any(Path("files/parts/record.json").match(pattern) for pattern in patterns)


def test_flux_dev_brings_its_demo_and_other_plugins_need_none():
    assert FLUX_DEV.demo is demo
    assert find_architecture("toy_architecture:SPEC").demo is None


@REAL
def test_the_shipped_files_are_sound_and_small():
    files = sound_files(shipped_folder())
    assert sum(len(content) for content in files.values()) <= 15 * 10**6


@REAL
def test_the_shipped_text_side_is_what_the_seeds_make():
    files = sound_files(shipped_folder())
    made = text_files()
    assert {name: digits_of(files[name]) for name in made} == {
        name: digits_of(content) for name, content in made.items()
    }
