"""The account before the start: what will be written, on which disk, and what to do when it is too much."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.account import Change, Need, Volume, account_for_space, kept_files, readable, volume_of
from host.errors import MachineError
from host.outputs import OutputSettings

MB, GB = 10**6, 10**9
CACHE, OUT = Path("/fast/cache"), Path("/slow/out")
NEEDS = [
    Need(what="caches", folder=CACHE, size=126 * MB),
    Need(what="states and LoRAs", folder=OUT, size=1200 * MB),
    Need(what="samples", folder=OUT / "sample", size=14 * MB),
]


def disks(**free):
    """Return a look at two simulated disks, /fast and /slow, with so many bytes free."""

    def look(folder):
        name = folder.parts[1]
        return Volume(device=sorted(free).index(name), free=free[name])

    return look


def refused(needs, look, changes=()):
    with pytest.raises(MachineError) as found:
        account_for_space(needs, changes=changes, look=look)
    assert found.value.exit_code == 4
    (problem,) = found.value.problems
    assert problem.code == "E22"
    return problem


def test_one_line_tells_what_is_needed_and_what_is_free_on_each_disk():
    line = account_for_space(NEEDS, look=disks(fast=50 * GB, slow=210 * GB))
    assert line == (
        "disk: caches 126 MB, states and LoRAs 1.2 GB, samples 14 MB;"
        " 210 GB free on the disk of /slow/out, 50 GB free on the disk of /fast/cache"
    )


def test_folders_of_one_disk_share_its_space():
    one_disk = lambda folder: Volume(device=1, free=int(1.33 * GB))  # noqa: E731
    assert refused(NEEDS, one_disk).what.count("1.34 GB") == 1
    assert account_for_space(NEEDS, look=disks(fast=GB, slow=int(1.33 * GB)))
    line = account_for_space(NEEDS, look=lambda folder: Volume(device=1, free=2 * GB))
    assert line.endswith("; 2 GB free on the disk of /fast/cache")


def test_each_folder_is_measured_on_its_own_disk():
    problem = refused(NEEDS, disks(fast=100 * MB, slow=100 * GB))
    assert problem.what.splitlines() == [
        "This run does not fit on the disk.",
        "                               needs       free",
        "      disk of /fast/cache     126 MB     100 MB   (caches 126 MB)",
        "      disk of /slow/out      1.21 GB     100 GB   (states and LoRAs 1.2 GB, samples 14 MB)",
    ]
    assert problem.remedy.startswith("Free 26 MB on the disk of /fast/cache, or choose")


def test_exactly_enough_is_enough():
    assert account_for_space(NEEDS, look=disks(fast=126 * MB, slow=1214 * MB))
    assert "Free 1 bytes" in refused(NEEDS, disks(fast=126 * MB, slow=1214 * MB - 1)).remedy


def test_the_mildest_change_that_fits_is_suggested_and_no_more_are_tried():
    tried = []

    def changes():
        for keep in range(9, 0, -1):
            tried.append(keep)
            results = replace(NEEDS[1], size=keep * 100 * MB)
            yield Change(line=f"save_last_n = {keep}", needs=[NEEDS[0], results, NEEDS[2]])

    problem = refused(NEEDS, disks(fast=GB, slow=650 * MB), changes())
    assert "Smallest change that fits:  save_last_n = 6   -> 600 MB less" in problem.remedy
    assert tried == [9, 8, 7, 6]


def test_where_no_change_helps_only_space_does():
    hopeless = [Change(line="save_last_n = 1", needs=NEEDS)]
    remedy = refused(NEEDS, disks(fast=MB, slow=MB), hopeless).remedy
    assert "save_last_n" not in remedy
    assert "125 MB on the disk of /fast/cache and 1.21 GB on the disk of /slow/out" in remedy


def test_a_folder_that_is_not_there_yet_lies_on_its_nearest_parents_disk(tmp_path, monkeypatch):
    asked = []
    usage = type("Usage", (), {"free": 7})
    monkeypatch.setattr("host.account.shutil.disk_usage", lambda path: asked.append(path) or usage)
    volume = volume_of(tmp_path / "not" / "yet")
    assert (volume.device, volume.free) == (tmp_path.stat().st_dev, 7)
    assert asked == [tmp_path]
    monkeypatch.chdir(tmp_path)
    volume_of(Path("output"))
    assert asked[-1] == tmp_path


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (14_200, "14.2 kB"),
        (126 * MB, "126 MB"),
        (1_234_000_000, "1.23 GB"),
    ],
)
def test_sizes_are_told_in_decimal_units(size, text):
    assert readable(size) == text


intervals = st.none() | st.integers(1, 7)
counts = st.none() | st.integers(1, 5)


@given(intervals, intervals, counts, counts, st.tuples(st.booleans(), st.booleans()), st.integers(1, 40))
def test_so_many_files_lie_there_at_the_most(by_step, by_epoch, last_n, last_n_state, with_state, total):
    output = OutputSettings(
        save_every_n_steps=by_step,
        save_every_n_epochs=by_epoch,
        save_last_n=last_n,
        save_last_n_state=last_n_state,
        save_state=with_state[0],
        save_state_on_train_end=with_state[1],
    )
    steps_per_epoch = 3
    loras, states, most_loras, most_states = 0, 0, 0, 0
    for step in range(1, total):
        by_epoch_due = by_epoch and step % steps_per_epoch == 0 and step // steps_per_epoch % by_epoch == 0
        due = [bool(by_step and step % by_step == 0), bool(by_epoch_due)]
        loras += sum(due)
        states += any(due) and output.save_state
        # Between two saves; within one there is one more.
        loras = min(loras, last_n or loras)
        most_states = max(most_states, states)
        states = min(states, last_n_state or last_n or states)
        most_loras = max(most_loras, loras)
    states += output.save_state or output.save_state_on_train_end
    expected = (max(most_loras, loras) + 1, max(most_states, states))
    assert kept_files(output, total_steps=total, steps_per_epoch=steps_per_epoch) == expected
