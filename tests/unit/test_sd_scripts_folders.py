"""sd-scripts' folders called after their repeats, and its fine-tuning metadata."""

import json

import pytest
from config_toy import load, refusal, write
from picture_files import as_picture, encoded, noise

from dataset.buckets import Size
from dataset.config import parse_datasets
from dataset.problems import ProblemsFound
from dataset.scan import scan

PNG = encoded(as_picture(noise(32, 32)))


def datasets(folder, text, *flags):
    """Read a dataset file as a run does; return its datasets."""
    words = ["--dataset_config", write(folder, text, name="data.toml")] if text else []
    config = load(*words, *flags)
    assert config.dataset_document is not None
    return parse_datasets(config.dataset_document, where=config.where, bucket_step=16)


def refused(folder, text, *flags):
    with pytest.raises(ProblemsFound) as found:
        datasets(folder, text, *flags)
    return found.value.problems


def only_refusal(folder, text, *flags):
    (problem,) = refused(folder, text, *flags)
    return problem


@pytest.fixture
def parents(tmp_path):
    for folder in ("train/10_ohwx man", "train/2_", "train/old", "reg/1_man"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(PNG)
    return tmp_path


def test_folders_of_repeats_are_read_without_a_dataset_file(parents):
    words = [
        "--train_data_dir",
        parents / "train",
        "--reg_data_dir",
        parents / "reg",
        "--resolution",
        "64,64",
    ]
    words += ["--train_batch_size", "2", "--enable_bucket", "--shuffle_caption", "--keep_tokens", "1"]
    first, second, reg = datasets(parents, "", *map(str, words))
    assert [part.image_directory for part in (first, second, reg)] == [
        parents / "train" / "10_ohwx man",
        parents / "train" / "2_",
        parents / "reg" / "1_man",
    ]
    assert [part.num_repeats for part in (first, second, reg)] == [10, 2, 1]
    assert [part.missing_caption for part in (first, second, reg)] == ["ohwx man", "empty", "man"]
    assert [part.is_reg for part in (first, second, reg)] == [False, False, True]
    assert {(part.batch_size, part.enable_bucket, part.captions.keep_tokens) for part in (first, second)} == {
        (2, True, 1)
    }
    items = scan([first, second, reg], code="fd", bucket_step=16).items
    assert [(item.caption, item.repeats, item.is_reg) for item in items] == [
        ("ohwx man", 10, False),
        ("", 2, False),
        ("man", 1, True),
    ]


def test_captions_under_sd_scripts_extension_are_offered_beside_class_tokens(parents):
    (parents / "train" / "10_ohwx man" / "1.caption").write_text("a man")
    words = ["--train_data_dir", str(parents / "train"), "--resolution", "64"]
    notes = scan(datasets(parents, "", *words), code="fd", bucket_step=16).notes
    (note,) = [note for note in notes if "*.caption" in note]
    assert note.endswith(
        '1 file *.caption there not read as captions; to use them:  caption_extension = ".caption"'
    )
    words += ["--caption_extension", ".caption"]
    assert scan(datasets(parents, "", *words), code="fd", bucket_step=16).items[0].caption == "a man"


def test_folders_of_repeats_are_read_from_the_training_file_with_its_general_table(parents):
    text = f"train_data_dir = '{parents / 'train'}'\n[general]\nresolution = 64\n"
    config = load(write(parents, text))
    assert config.dataset_document is not None
    read = parse_datasets(config.dataset_document, where=config.where, bucket_step=16)
    assert [part.resolution for part in read] == [Size(64, 64)] * 2


def test_a_wrong_value_among_the_flags_of_the_pictures_is_told_with_its_place(parents):
    fault = only_refusal(parents, "", "--train_data_dir", str(parents / "train"), "--keep_tokens", "some")
    assert fault.what.startswith('keep_tokens = "some" in the command line')
    fault = only_refusal(parents, "", "--train_data_dir", str(parents / "train"), "--color_aug")
    assert '"color_aug" in the command line changes the pixels at every step' in fault.what


def test_a_folder_without_folders_of_repeats_is_told_the_table_to_write(parents):
    message = refusal("--train_data_dir", str(parents / "train" / "old"))
    assert message.startswith("E07 train_data_dir = ")
    assert "and it holds 1 pictures itself" in message
    assert f'[[datasets]]\n    image_directory = "{(parents / "train" / "old").as_posix()}"' in message
    message = refusal("--train_data_dir", str(parents / "gone"), "--reg_data_dir", str(parents / "away"))
    assert "Correct train_data_dir." in message
    assert "Correct reg_data_dir." in message


def test_folders_of_repeats_beside_tables_are_refused(parents):
    data = write(parents, '[[datasets]]\nimage_dir = "a"\n', name="data.toml")
    message = refusal("--train_data_dir", str(parents / "train"), "--dataset_config", data)
    assert "described twice: by [[datasets]] in data.toml and by train_data_dir (the command line)" in message


@pytest.fixture
def tuned(tmp_path):
    folder = tmp_path / "fine"
    for name in ("a.png", "b.png", "sub/c.png", "unnamed.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    return folder


def captions(folder, records, *, name="meta.json", lines=False, image_dir=True):
    content = "\n".join(json.dumps(record) for record in records) if lines else json.dumps(records)
    (folder / name).write_text(content, encoding="utf-8")
    pictures = f"image_dir = '{folder}'" if image_dir else ""
    text = f"[[datasets]]\n[[datasets.subsets]]\n{pictures}\nmetadata_file = '{folder / name}'\n"
    scanned = scan(datasets(folder.parent, f"[general]\nresolution = 32\n{text}"), code="fd", bucket_step=16)
    return {item.key: item.caption for item in scanned.items}, scanned.notes


def test_a_metadata_file_names_pictures_by_stem_by_relative_and_by_whole_path(tuned):
    records = {
        "a": {"caption": "a cat ", "tags": "sofa, indoors", "image_size": [32, 32]},
        "b.png": {"tags": "dog, lawn"},
        str(tuned / "sub" / "c.png"): {"caption": "a bird", "rating": "good"},
    }
    found, notes = captions(tuned, records)
    assert found == {"a": "a cat, sofa, indoors", "b": "dog, lawn", "c": "a bird"}
    assert f"{tuned}: fields that are not read: rating" in notes
    assert f"{tuned}: 1 picture in {tuned} that meta.json does not name" in notes


def test_a_metadata_file_of_lines_and_one_without_a_folder_are_read(tuned):
    records = [{"image_path": str(tuned / name), "caption": name} for name in ("a.png", "b.png")]
    assert captions(tuned, records, name="meta.jsonl", lines=True)[0] == {"a": "a.png", "b": "b.png"}
    whole = {record["image_path"]: {"caption": "x"} for record in records}
    assert captions(tuned, whole, image_dir=False)[0] == {"a": "x", "b": "x"}


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"{", "E05", "cannot be read as metadata"),
        (b"[]", "E05", "it holds no object"),
        (b'{"a": "a cat"}', "E05", '"a" is not a picture with its caption: a cat'),
        (b'{"a": {"caption": "x"}, "a": {"caption": "y"}}', "E05", 'it holds "a" more than once'),
        (b'{"a": {"caption": "x"}, "a.png": {}}', "E12", "names pictures more than once: a and a.png."),
        (b'{"a": {"caption": "x", "tags": ["y"]}, "b": 1}', "E05", '"a" has a "tags" that is not a text'),
        (b'{"a": {"caption": "caf\xe9"}}', "E05", "(byte 23, looks like an older code page"),
        (b"\xff\xfe{", "E05", "cannot be read as metadata"),
        (b"{}", "E06", "names no picture"),
        (b'{"a": {}, "gone": {"caption": "x"}}', "E06", "1 of 2 pictures that"),
        (b'{"a": {"caption": " "}}', "E08", "1 of 1 pictures"),
    ],
)
def test_a_metadata_file_that_cannot_be_followed_is_refused(tuned, content, code, says):
    (tuned / "meta.json").write_bytes(content)
    text = f"[[datasets]]\nresolution = 32\nimage_dir = '{tuned}'\nmetadata_file = '{tuned / 'meta.json'}'\n"
    with pytest.raises(ProblemsFound) as found:
        scan(datasets(tuned.parent, text), code="fd", bucket_step=16)
    (problem,) = found.value.problems
    assert problem.code == code
    assert says in problem.what


def test_all_bad_lines_of_a_metadata_file_are_named_by_their_numbers(tuned):
    path = tuned / "meta.jsonl"
    path.write_text('{"image_path": "a.png"}\n\nbroken\n{"caption": "x"}\n')
    text = f"[[datasets]]\nresolution = 32\nimage_dir = '{tuned}'\nmetadata_file = '{path}'\n"
    with pytest.raises(ProblemsFound) as found:
        scan(datasets(tuned.parent, text), code="fd", bucket_step=16)
    (problem,) = found.value.problems
    assert "line 3 is not JSON" in problem.what
    assert "line 4 is not a picture with its caption" in problem.what


def test_a_misspelt_caption_of_a_metadata_file_is_named(tuned):
    (tuned / "meta.json").write_text('{"a": {"captions": "x"}}')
    (tuned / "a.caption").write_text("a caption file that a metadata file leaves unread")
    text = f"[[datasets]]\nresolution = 32\nimage_dir = '{tuned}'\nmetadata_file = '{tuned / 'meta.json'}'\n"
    with pytest.raises(ProblemsFound) as found:
        scan(datasets(tuned.parent, text), code="fd", bucket_step=16)
    (problem,) = found.value.problems
    assert problem.what.endswith("have no caption: a.png.")
    assert 'meta.json holds "captions"; what is read is called  "caption".' in problem.remedy
    assert "caption_extension" not in problem.remedy


def test_a_metadata_file_that_is_not_there_is_told_with_its_form(tuned):
    text = f"[[datasets]]\nimage_dir = '{tuned}'\nin_json = '{tuned / 'none.json'}'\n"
    with pytest.raises(ProblemsFound, match=r"(?s)none.json does not exist.*Correct metadata_file.*caption"):
        scan(datasets(tuned.parent, text), code="fd", bucket_step=16)
