"""Names of samples: which pictures are whose, and which columns a grid has."""

import pytest
from PIL import Image

from host import sample_files
from host.prompts import SamplePrompt
from host.sample_files import (
    find_step_samples,
    grid_path,
    samples_of,
    set_samples_aside_after,
    step_sample,
    strength_sample,
    strengths_path,
    write_step_grid,
)
from host.sampling import parameters_text, save_picture

PROMPTS = [SamplePrompt(prompt="a spot", seed=3), SamplePrompt(prompt="a dot")]
NAMES = [
    "cat",
    "cat_2",
    "cat_x0.5",
    "cat_000050",
    "cat_000050_00",
    "cat_grid",
    "cat_strengths",
    "ca",
    "cat.x",
]


def draw(path, prompt=PROMPTS[0], colour="red"):
    said = parameters_text(prompt, seed=3, extra={})
    save_picture(Image.new("RGB", (64, 64), colour), path, parameters=said)
    return path


def files_of(folder, name):
    return [
        step_sample(folder, name, step=50, number=0, seed=3),
        step_sample(folder, name, step=1_234_567, number=0, seed=3),
        strength_sample(folder, name, strength=0.5, number=0, seed=3),
        strength_sample(folder, name, strength=-1e-7, number=0, seed=3),
        grid_path(folder, name),
        strengths_path(folder, name),
    ]


def test_no_two_runs_share_a_name_of_a_picture(tmp_path):
    folder = tmp_path / "sample"
    every = [path for name in NAMES for path in files_of(folder, name)]
    assert len(set(every)) == len(every)
    for path in every:
        draw(path)
    for name in NAMES:
        assert sorted(samples_of(tmp_path, name)) == sorted(files_of(folder, name))
        assert sorted(find_step_samples(folder, name).values()) == [50, 1_234_567]


def test_other_files_are_no_samples(tmp_path):
    for name in ("cat.png", "cat_50_00_3.png", "cat_000050_00_3.png.txt", "cat_000050_00_x.png", "notes.txt"):
        (tmp_path / name).write_text("mine")
    assert find_step_samples(tmp_path, "cat") == {}
    assert samples_of(tmp_path.parent, "cat") == []


@pytest.fixture
def columns(tmp_path, monkeypatch):
    """Draw samples of some steps; return the grid's labels and its cells, rows by columns."""
    seen = {}

    def spy(cells, *, rows, columns):
        seen.update(cells=[[cell is not None for cell in row] for row in cells], rows=rows, columns=columns)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(sample_files, "draw_grid", spy)

    def write(*steps, until, prompts=PROMPTS):
        for step in steps:
            for number, (prompt, seed) in enumerate(zip(PROMPTS, (3, 42), strict=True)):
                draw(step_sample(tmp_path, "cat", step=step, number=number, seed=seed), prompt)
        seen.clear()
        write_step_grid(tmp_path, "cat", prompts, step=until, seed=42)
        return seen

    return write


def test_the_base_comes_first_and_steps_follow_by_number(columns):
    seen = columns(100, 0, 50, 1_000_000, until=1_000_000)
    assert seen["columns"] == ["base", "50", "100", "1000000"]
    assert seen["rows"] == ["a spot", "a dot"]
    assert seen["cells"] == [[True] * 4] * 2


def test_later_steps_of_a_continuation_that_was_given_up_are_left_out(columns, tmp_path):
    assert columns(0, 50, 100, until=50)["columns"] == ["base", "50"]
    assert set_samples_aside_after(tmp_path.parent, "cat", step=50) == 0
    assert columns(until=100)["columns"] == ["base", "50", "100"]


def test_samples_of_later_steps_are_moved_and_not_lost(tmp_path):
    folder = tmp_path / "sample"
    paths = [draw(step_sample(folder, "cat", step=step, number=0, seed=3)) for step in (0, 50, 100)]
    other = draw(step_sample(folder, "cat_2", step=100, number=0, seed=3))
    assert set_samples_aside_after(tmp_path, "cat", step=50) == 1
    assert [path.is_file() for path in (*paths, other)] == [True, True, False, True]
    assert (folder / "superseded" / paths[2].name).is_file()
    draw(paths[2], colour="blue")
    assert set_samples_aside_after(tmp_path, "cat", step=50) == 1


def test_no_picture_is_shown_beside_another_prompt_than_its_own(columns):
    changed = [
        SamplePrompt(prompt="a star", seed=3),
        SamplePrompt(prompt="a dot"),
        SamplePrompt(prompt="new"),
    ]
    assert columns(0, 50, until=50, prompts=changed)["cells"] == [[False] * 2, [True] * 2, [False] * 2]


def test_a_picture_that_is_cut_off_leaves_its_place(columns, tmp_path):
    columns(0, until=0)
    path = step_sample(tmp_path, "cat", step=0, number=0, seed=3)
    path.write_bytes(path.read_bytes()[:-40])
    assert columns(until=0)["cells"] == [[False], [True]]
    path.write_bytes(b"")
    assert columns(until=0)["cells"] == [[False], [True]]


def test_without_samples_there_is_no_grid(tmp_path):
    assert write_step_grid(tmp_path, "cat", PROMPTS, step=100, seed=42) is None
    assert not list(tmp_path.iterdir())


def test_a_grid_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    draw(step_sample(tmp_path, "cat", step=0, number=0, seed=3))
    path = grid_path(tmp_path, "cat")
    assert write_step_grid(tmp_path, "cat", PROMPTS, step=0, seed=42) == path
    before = path.read_bytes()

    def half(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space"):
        write_step_grid(tmp_path, "cat", PROMPTS, step=0, seed=42)
    assert path.read_bytes() == before
