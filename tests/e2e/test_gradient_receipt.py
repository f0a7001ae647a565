"""Before the first step the LoRA's gradient in 8 bit is held against bf16; what 8 bit spoils is kept."""

import hashlib
import json

import pytest
import torch
from jobs import draw_pictures, launch_two, lora_bytes, losses, state_bytes, train, write_job
from safetensors.torch import load_file, save_file

from host import gradient_receipt, training
from host.gradient_receipt import chosen, cosines
from host.states import read_progress

HARD, EASY = "layers.0.0", "layers.1.0"
LONG = {"max_train_steps": 4, "save_every_n_steps": 2, "save_state": True}


def hard_job(folder, **settings):
    """A job with a LoRA on one layer, which has a huge weight in every row for an input of zero."""
    settings = {"network_args": ["exclude_patterns=layers\\.1\\.0"], **settings}
    pictures = draw_pictures(folder / "pictures", sizes=[(64, 64), (64, 64)])
    job = write_job(folder, pictures=pictures, mixed_precision="no", int8_base=True, **settings)
    path = folder / "models" / "dit.safetensors"
    tensors = load_file(path)
    tensors["embed.weight"][5] = 0
    tensors["embed.bias"][5] = 0
    tensors[f"{HARD}.weight"] *= 5
    tensors[f"{HARD}.weight"][:, 5] = 300
    save_file(tensors, path)
    return job


@pytest.fixture
def loads(monkeypatch):
    """What each loading of the transformer was told to keep as it is, and in which form the rest."""
    calls = []
    for module in (gradient_receipt, training):
        original = module.load_frozen_transformer

        def load(*given, original=original, **options):
            frozen = original(*given, **options)
            calls.append((sorted(options.get("exact", ())), [n for n in frozen.notes if "linears" in n]))
            return frozen

        monkeypatch.setattr(module, "load_frozen_transformer", load)
    return calls


def test_a_layer_that_is_hard_to_quantise_is_kept_as_it_is_by_name(tmp_path, capsys, loads):
    assert train(hard_job(tmp_path, max_train_steps=2)) == 0
    said = capsys.readouterr().out
    assert f"8 bit: below 0.99, so not kept in it: {HARD} 0." in said
    assert "gradient of the LoRA on the first batch against bf16 (of lora_up" in said
    # The exact model, the quantised one, and the one that is trained.
    assert [kept for kept, _ in loads] == [[], [], [HARD]]
    assert "8 bit: 1 linears" in loads[2][1][0]


def test_without_the_rule_it_would_be_quantised_and_train_to_other_numbers(tmp_path, monkeypatch):
    assert train(hard_job(tmp_path, max_train_steps=2)) == 0
    kept = losses(tmp_path)
    monkeypatch.setattr(gradient_receipt, "LEAST", -2.0)
    (record,) = (tmp_path / "cached" / "quantised").glob("*.json")
    record.unlink()
    assert train(tmp_path / "job.toml", "--overwrite") == 0
    quantised = losses(tmp_path)
    assert train(tmp_path / "job.toml", "--overwrite", "--no_int8_base") == 0
    exact = losses(tmp_path)
    assert abs(kept[0][0] - exact[0][0]) < 0.1 * abs(quantised[0][0] - exact[0][0])


def test_a_neighbour_whose_gradient_it_spoils_is_kept_too(tmp_path, loads):
    """What a layer loses reaches the gradients of those before and after it: the rule looks at gradients."""
    assert train(hard_job(tmp_path, max_train_steps=1, network_args=[])) == 0
    assert loads[2][0] == [HARD, EASY]


def test_the_choice_is_made_once_and_said_again(tmp_path, capsys, loads):
    job = hard_job(tmp_path, max_train_steps=2)
    assert train(job) == 0
    first, found = capsys.readouterr().out, lora_bytes(tmp_path)
    loads.clear()
    assert train(job, "--overwrite") == 0
    again = capsys.readouterr().out
    assert [kept for kept, _ in loads] == [[HARD]]
    for said in (first, again):
        assert f"so not kept in it: {HARD}" in said
    assert lora_bytes(tmp_path) == found


@pytest.mark.parametrize("swap", [0, 2])
def test_a_resumed_run_keeps_the_choice_of_its_state_and_changes_no_byte(tmp_path, capsys, loads, swap):
    job = hard_job(tmp_path, **LONG)
    assert train(job) == 0
    found = lora_bytes(tmp_path), state_bytes(tmp_path)
    middle = tmp_path / "out" / "lora-step00000002-state"
    assert read_progress(middle).kept == [HARD]
    for path in (tmp_path / "cached" / "quantised").iterdir():
        path.unlink()
    loads.clear()
    capsys.readouterr()
    assert train(job, "--resume", middle, "--blocks_to_swap", swap) == 0
    assert [kept for kept, _ in loads] == [[HARD]]
    assert f"8 bit: not kept in it, as in the state: {HARD}" in capsys.readouterr().out
    assert (lora_bytes(tmp_path), state_bytes(tmp_path)) == found
    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out


def test_a_state_that_knows_of_no_choice_goes_on_without_one(tmp_path, monkeypatch, loads):
    monkeypatch.setattr(gradient_receipt, "LEAST", -2.0)
    job = hard_job(tmp_path, **LONG)
    assert train(job) == 0
    found = lora_bytes(tmp_path)
    monkeypatch.undo()
    middle = tmp_path / "out" / "lora-step00000002-state"
    progress = json.loads((middle / "progress.json").read_text())
    del progress["kept"]
    (middle / "progress.json").write_text(json.dumps(progress))
    manifest = json.loads((middle / "manifest.json").read_text())
    manifest["progress.json"] = hashlib.sha256((middle / "progress.json").read_bytes()).hexdigest()
    (middle / "manifest.json").write_text(json.dumps(manifest))
    assert train(job, "--resume", middle) == 0
    assert lora_bytes(tmp_path) == found


@pytest.mark.parametrize("form", [["--fp8_base"], ["--fp8_base", "--fp8_scaled"], ["--int8_base"]])
def test_the_comparison_changes_no_byte_of_the_run(tmp_path, capsys, monkeypatch, form):
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64), (64, 64)])
    job = write_job(tmp_path, pictures=pictures, network_dropout=0.3, max_train_steps=3, save_state=True)
    assert train(job, *form) == 0
    compared = capsys.readouterr().out
    assert "against bf16 (of lora_up" in compared
    assert "below 0.99" not in compared
    found = lora_bytes(tmp_path), state_bytes(tmp_path), losses(tmp_path)
    for record in (tmp_path / "cached" / "quantised").glob("*.json"):
        record.unlink()
    monkeypatch.setattr(gradient_receipt, "fit_in_full", lambda *_: None)
    assert train(job, *form, "--overwrite") == 0
    assert "was not compared with bf16: both models do not fit into memory" in capsys.readouterr().out
    assert (lora_bytes(tmp_path), state_bytes(tmp_path), losses(tmp_path)) == found


def test_several_processes_keep_what_the_main_one_chose(tmp_path):
    job = hard_job(tmp_path, max_train_steps=2, batch_size=1, save_state_on_train_end=True)
    launched = launch_two(job)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert launched.stdout.count("so not kept in it: ") == 1
    assert read_progress(tmp_path / "out" / "lora-state").kept == [HARD]


def test_without_8_bit_nothing_is_compared(tmp_path, capsys, loads):
    assert train(write_job(tmp_path, max_train_steps=1)) == 0
    assert len(loads) == 1
    assert "against bf16" not in capsys.readouterr().out


def test_cosines_are_of_both_factors_together():
    exact = {"a": torch.tensor([0.0, 3.0, 4.0]), "b": torch.zeros(2), "c": torch.ones(2), "d": torch.ones(2)}
    coded = {"a": torch.tensor([0.0, 4.0, 3.0]), "b": torch.zeros(2), "c": torch.zeros(2), "d": torch.ones(2)}
    assert cosines(exact, coded) == pytest.approx({"a": 24 / 25, "b": 1, "c": 0, "d": 1})


def test_the_worst_five_are_named_and_what_has_no_room_stays_in_8_bit():
    found = {f"layer.{number}": 0.985 + number / 1000 for number in range(8)} | {"broken": float("nan")}
    choice = chosen(found, fitting=lambda paths: paths[:2])
    assert len(choice.kept) == 2
    assert choice.notes[0].count("layer.") >= 4
    assert "too, but kept in it for lack of memory" in choice.notes[2]
    assert chosen({"a": 0.99}, fitting=lambda paths: paths).kept == ()
