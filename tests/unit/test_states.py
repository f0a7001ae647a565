"""States are whole or not there, and resuming from the wrong thing is refused."""

from dataclasses import replace

import pytest
import torch

from host import atomic
from host.errors import ConfigError
from host.outputs import OutputSettings
from host.results import (
    StartKind,
    clear,
    decide_start,
    is_as_it_was_finished,
    write_record,
)
from host.saving import final_path
from host.states import (
    Progress,
    compare,
    find_states,
    is_complete,
    latest_state,
    read_state,
    set_aside_after,
    state_path,
    write_state,
)

NOW = Progress(
    step=0, settings={"seed": "42", "learning_rate": "0.0001"}, dataset="d", files={"dit": "b"}, processes=1
)


def save(folder, step, *, name="cat", settings=None):
    path = state_path(folder, name, step)
    write_state(
        path,
        trained={"a.down": torch.full((2, 3), float(step))},
        optimizer={
            "state": {0: {"step": torch.tensor(float(step))}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        progress=replace(NOW, step=step, settings=settings or NOW.settings),
    )
    return path


def output(folder, **changes):
    return replace(OutputSettings(), output_dir=folder, output_name="cat", **changes)


def test_a_state_reads_back_as_it_was_written(tmp_path):
    state = read_state(save(tmp_path, 7))
    assert state.progress == replace(NOW, step=7)
    assert torch.equal(state.trained["a.down"], torch.full((2, 3), 7.0))
    assert state.optimizer["state"][0]["step"] == 7


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "progress.json", "manifest.json"])
def test_a_state_with_a_damaged_or_missing_file_is_passed_over_by_name(tmp_path, name):
    older, newer = save(tmp_path, 5), save(tmp_path, 10)
    (newer / name).write_bytes(b"{}")
    assert not is_complete(newer)
    assert latest_state(tmp_path, "cat") == (older, [newer])
    with pytest.raises(ConfigError, match="not a whole state"):
        read_state(newer)
    (newer / name).unlink()
    assert not is_complete(newer)


def test_an_interrupted_writing_leaves_the_older_state_and_nothing_that_counts(tmp_path, monkeypatch):
    older = save(tmp_path, 5)

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 10)
    assert find_states(tmp_path, "cat") == [older]
    assert latest_state(tmp_path, "cat") == (older, [])


def test_states_are_found_by_step_and_those_of_other_names_are_not(tmp_path):
    paths = [save(tmp_path, step) for step in (20, 100, 3)]
    save(tmp_path, 500, name="cat-2")
    save(tmp_path, 500, name="category")
    assert find_states(tmp_path, "cat") == [paths[2], paths[0], paths[1]]


def test_a_changed_seed_makes_resuming_impossible_and_a_changed_rate_is_applied():
    old = replace(NOW, settings={**NOW.settings, "seed": "1", "learning_rate": "0.1"})
    problems, notes = compare(old, now=NOW)
    assert [str(problem) for problem in problems] == [
        "E23 This run was begun with seed = 1; the configuration now says 42.\n"
        "    Set seed = 1 to go on, or begin a new run under another output_name."
    ]
    assert notes == ["learning_rate: 0.1 -> 0.0001 from here on"]


def test_what_is_trained_may_not_change_on_resume():
    old, now = (replace(NOW, settings={**NOW.settings, "train_mode": mode}) for mode in ("lora", "full"))
    problems, notes = compare(old, now=now)
    assert [problem.what for problem in problems] == [
        "This run was begun with train_mode = lora; the configuration now says full."
    ]
    assert notes == []


@pytest.mark.parametrize("change", [{"dataset": "other"}, {"files": {"dit": "x"}}, {"processes": 2}])
def test_other_pictures_other_files_or_more_processes_make_resuming_impossible(change):
    problems, _ = compare(replace(NOW, **change), now=NOW)
    assert len(problems) == 1
    assert "changed since the state was saved" in problems[0].what


def test_an_empty_folder_begins(tmp_path):
    assert decide_start(output(tmp_path), now=NOW, total_steps=99).kind is StartKind.BEGIN


def test_a_finished_run_with_the_same_settings_is_only_verified(tmp_path):
    final_path(tmp_path, "cat").write_bytes(b"lora")
    write_record(output(tmp_path), progress=NOW, finished=True)
    assert decide_start(output(tmp_path), now=NOW, total_steps=99).kind is StartKind.FINISHED


def test_a_finished_run_with_other_settings_is_refused_with_a_free_name(tmp_path):
    final_path(tmp_path, "cat").write_bytes(b"lora")
    write_record(output(tmp_path), progress=NOW, finished=True)
    (tmp_path / "cat-2.safetensors").write_bytes(b"another")
    with pytest.raises(ConfigError, match="--output_name cat-3") as caught:
        decide_start(output(tmp_path), now=replace(NOW, settings={"seed": "1"}), total_steps=99)
    assert "--overwrite" in str(caught.value)
    assert decide_start(output(tmp_path, overwrite=True), now=NOW, total_steps=99).kind is StartKind.BEGIN


def test_a_lora_of_unknown_origin_is_in_the_way(tmp_path):
    final_path(tmp_path, "cat").write_bytes(b"lora")
    with pytest.raises(ConfigError, match="is there already"):
        decide_start(output(tmp_path), now=NOW, total_steps=99)


def test_an_unfinished_run_offers_to_resume(tmp_path):
    write_record(output(tmp_path), progress=NOW, finished=False)
    assert decide_start(output(tmp_path), now=NOW, total_steps=99).kind is StartKind.BEGIN
    path = save(tmp_path, 5)
    with pytest.raises(ConfigError, match="--resume latest"):
        decide_start(output(tmp_path), now=NOW, total_steps=99)
    start = decide_start(output(tmp_path, resume="latest"), now=NOW, total_steps=99)
    assert (start.kind, start.state) == (StartKind.RESUME, path)


def test_resuming_from_the_wrong_thing_is_refused_with_the_right_one(tmp_path):
    path = save(tmp_path, 5)
    lora = tmp_path / "cat.safetensors"
    lora.write_bytes(b"lora")
    with pytest.raises(ConfigError, match="not a saved state") as caught:
        decide_start(output(tmp_path, resume=str(lora)), now=NOW, total_steps=99)
    assert f"resume = '{path}'" in str(caught.value)
    assert f"network_weights = '{lora}'" in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        decide_start(output(tmp_path, resume=str(tmp_path / "nowhere")), now=NOW, total_steps=99)
    with pytest.raises(ConfigError, match="not a whole saved state"):
        decide_start(output(tmp_path, resume=str(tmp_path)), now=NOW, total_steps=99)
    with pytest.raises(ConfigError, match="holds no whole state"):
        decide_start(replace(output(tmp_path, resume="latest"), output_name="dog"), now=NOW, total_steps=99)


def test_clearing_removes_only_what_belongs_to_the_name(tmp_path):
    mine = [
        tmp_path / name
        for name in ("cat.safetensors", "cat-step00000005.safetensors", "cat-000002.safetensors")
    ]
    others = [
        tmp_path / name for name in ("cat-2.safetensors", "category.safetensors", "photo.png", "cat.txt")
    ]
    for path in mine + others:
        path.write_bytes(b"x")
    states = [save(tmp_path, 5), save(tmp_path, 5, name="cat-2")]
    clear(output(tmp_path))
    assert not any(path.exists() for path in [*mine, states[0]])
    assert all(path.exists() for path in [*others, states[1]])


def test_a_state_beyond_the_end_of_the_run_is_refused(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(ConfigError, match="is of step 5, and the run is to end at step 4"):
        decide_start(output(tmp_path, resume="latest"), now=NOW, total_steps=4)
    assert decide_start(output(tmp_path, resume="latest"), now=NOW, total_steps=5).state is not None


def test_states_of_later_steps_are_set_aside_and_no_longer_found(tmp_path):
    early, late = save(tmp_path, 5), save(tmp_path, 10)
    assert set_aside_after(tmp_path, "cat", step=5) == [late]
    assert find_states(tmp_path, "cat") == [early]
    assert (tmp_path / f"{late.name}.superseded" / "manifest.json").is_file()


def test_a_run_whose_name_looks_like_a_step_or_an_epoch_of_another_is_left_alone(tmp_path):
    other = replace(output(tmp_path), output_name="cat-240101")
    final_path(tmp_path, other.output_name).write_bytes(b"lora")
    write_record(other, progress=NOW, finished=True)
    like_a_step = replace(output(tmp_path), output_name="cat-step00000010")
    final_path(tmp_path, like_a_step.output_name).write_bytes(b"lora")
    write_record(like_a_step, progress=NOW, finished=True)
    state = save(tmp_path, 10)
    assert find_states(tmp_path, "cat") == []
    clear(output(tmp_path))
    assert final_path(tmp_path, other.output_name).exists()
    assert final_path(tmp_path, like_a_step.output_name).exists()
    assert state.exists()


def test_a_finished_lora_whose_bytes_changed_is_noticed(tmp_path):
    final_path(tmp_path, "cat").write_bytes(b"lora")
    write_record(output(tmp_path), progress=NOW, finished=True)
    assert is_as_it_was_finished(output(tmp_path))
    final_path(tmp_path, "cat").write_bytes(b"lorb")
    assert not is_as_it_was_finished(output(tmp_path))
