"""What the account says before the start is what a job then writes; too little space is refused."""

import re
from types import SimpleNamespace

import pytest
import torch
from jobs import run, train, write_job
from test_masked_and_prior_losses import add_dataset, change, draw_masks

from host import account
from host.caching import text_entries
from host.check import check_job
from host.config import load_config
from host.errors import MachineError
from host.movers import DiskStore
from host.processes import Processes

UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def prompts_in(folder):
    path = folder / "prompts.txt"
    folder.mkdir(exist_ok=True)
    path.write_text("a spot --w 64 --h 64 --s 2\na dot --w 128 --h 64 --s 2\n")
    return str(path)


def account_of(said):
    """Return part of the account -> bytes."""
    (line,) = re.findall(r"^check +disk: ([^;]+);", said, flags=re.MULTILINE)
    parts = re.findall(r"(\w[\w ]*) ([\d.e+]+) (\w+)(?:, |$)", line)
    return {name: float(number) * UNITS[unit] for name, number, unit in parts}


def written(folder, *globs):
    return sum(path.stat().st_size for pattern in globs for path in folder.glob(pattern) if path.is_file())


def test_the_estimates_are_within_a_tenth_of_what_a_tiny_job_writes(tmp_path, capsys):
    job = write_job(
        tmp_path,
        network_dim=64,
        max_train_steps=5,
        save_every_n_steps=2,
        save_state=True,
        sample_prompts=prompts_in(tmp_path),
        sample_every_n_steps=2,
    )
    change(job, row=draw_masks(tmp_path), flip_aug=True)
    assert train(job, "--check") == 0
    told = account_of(capsys.readouterr().out)
    assert train(job) == 0
    assert account_of(capsys.readouterr().out) == told
    actual = {
        "caches": written(tmp_path, "cached/*", "cached/prompts/*"),
        "states and LoRAs": written(tmp_path, "out/*.safetensors", "out/*-state/*"),
    }
    assert {name: told[name] for name in actual} == pytest.approx(actual, rel=0.1)
    # The toy's pictures are flat squares, which a PNG makes small.
    drawn = 7 * 2.6 * (64 * 64 + 128 * 64)
    assert told["samples"] > drawn
    assert len([*tmp_path.glob("out/sample/*.png")]) == 7 * 2 + 2
    assert written(tmp_path, "out/sample/*.png") < told["samples"]


@pytest.mark.parametrize("precision", [{}, {"fp8_base": True, "fp8_scaled": True}])
def test_blocks_that_wait_on_disk_are_counted_and_not_twice_where_a_copy_is_kept(
    tmp_path, capsys, monkeypatch, precision
):
    job = write_job(tmp_path, architecture="fd", blocks_to_swap=6, max_train_steps=1, **precision)
    written_to, add = {}, DiskStore.add

    def count(store, place, start, part):
        size = part.nbytes if isinstance(part, torch.Tensor) else 0
        written_to[store] = written_to.get(store, 0) + size
        return add(store, place, start, part)

    monkeypatch.setattr(DiskStore, "add", count)
    for _ in range(2):
        written_to.clear()
        assert train(job, "--overwrite") == 0
        told = account_of(capsys.readouterr().out)["blocks that wait"]
        # In 8 bit the first start compares gradients while the copy is made, and then trains from the copy.
        assert told == pytest.approx(next(iter(written_to.values())), rel=0.01)
        assert len(written_to) <= 2, "the model in bf16 is not written for the comparison"


def test_what_lies_there_already_is_not_counted_again(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=4, save_every_n_steps=1, save_state=True)
    assert train(job) == 0
    first = account_of(capsys.readouterr().out)
    assert first["caches"] > 8000
    assert train(job, "--overwrite") == 0
    again = account_of(capsys.readouterr().out)
    assert again["caches"] < 0.1 * first["caches"]
    assert again["states and LoRAs"] < 0.3 * first["states and LoRAs"]
    assert train(job) == 0
    assert "disk:" not in capsys.readouterr().out


def full_disk(monkeypatch, free):
    monkeypatch.setattr(account.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_run_that_does_not_fit_is_refused_before_the_start_with_the_line_to_paste(
    tmp_path, refusal, monkeypatch
):
    job = write_job(tmp_path, max_train_steps=20, save_every_n_steps=1, save_state=True)
    full_disk(monkeypatch, 200_000)
    for flags in ([], ["--check"]):
        message = refusal(job, *flags, code=4)
        assert message.startswith("E22 This run does not fit on the disk.")
        assert f"disk of {tmp_path / 'cached'}" in message
    (keep,) = re.findall(r"Smallest change that fits:  save_last_n_state = (\d+)", message)
    assert train(job, "--check", "--save_last_n_state", keep) == 0
    assert (
        "save_last_n_state"
        not in refusal(job, "--save_last_n_state", int(keep) + 1, code=4).partition("E22")[0]
    )


def test_the_cache_programs_refuse_too_and_count_only_their_own(tmp_path, refusal, monkeypatch, capsys):
    job = write_job(tmp_path)
    full_disk(monkeypatch, 5000)
    assert "(caches 6.84 kB)" in refusal(job, program="cache_latents", code=4)
    assert run("cache_text_encoder_outputs", job) == 0
    assert account_of(capsys.readouterr().out)["caches"] == pytest.approx(2400, rel=0.3)


def test_every_folder_of_a_job_is_measured_on_its_own_disk(tmp_path):
    job = add_dataset(write_job(tmp_path, save_every_n_steps=1), tmp_path)
    config = load_config([str(job)], prog="train.py")
    checked = check_job(config, processes=Processes(device=torch.device("cpu")))
    asked = []

    def look(folder, free=10**9):
        asked.append(folder.name)
        return account.Volume(device=sum(folder.name.encode()), free=free)

    texts = text_entries(checked.items)
    assert "disk of" in account.check_space(checked, texts, device_type="cpu", look=look)
    assert sorted(asked) == ["cached", "cached-others", "out"]
    with pytest.raises(MachineError) as found:
        account.check_space(
            checked,
            texts,
            device_type="cpu",
            look=lambda folder: look(folder, 100 if folder.name == "cached-others" else 10**9),
        )
    (problem,) = found.value.problems
    assert re.search(rf"{tmp_path}/cached-others +[\d.]+ kB +100 bytes", problem.what)
    assert re.match(rf"Free [\d.]+ kB on the disk of {tmp_path}/cached-others, or", problem.remedy)
