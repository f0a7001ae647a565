"""Where an evaluation is written."""

from host.evaluation_order import no_folder


def test_a_file_in_place_of_the_folder_is_refused_and_any_other_place_is_not(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("words")
    for path in (file, file / "below" / "it"):
        (problem,) = no_folder(path)
        assert problem.what == f"--save_path {path}: {file} is a file."
    assert no_folder(tmp_path) == []
    assert no_folder(tmp_path / "not" / "yet") == []
