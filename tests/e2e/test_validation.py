"""Whole runs with validation: it shifts nothing, goes on where it was, and keeps the best."""

import json

from jobs import lora_bytes, losses, state_bytes, train, write_job

ROUNDS: dict = {"validate_every_n_steps": 2, "max_validation_steps": 3}
EXACT: dict = {
    "max_train_steps": 6,
    "network_dropout": 0.2,
    "ip_noise_gamma": 0.1,
    "save_state_on_train_end": True,
}


def rounds(folder, name="lora"):
    path = folder / "out" / f"{name}_validation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_validation_changes_no_byte_of_lora_state_and_log(tmp_path):
    job = write_job(tmp_path / "with", **EXACT, **ROUNDS)
    assert train(job) == 0
    assert [one["step"] for one in rounds(tmp_path / "with")] == [0, 2, 4, 6]
    assert train(write_job(tmp_path / "without", **EXACT, validation_budget=0.0)) == 0
    assert not (tmp_path / "without" / "out" / "lora_validation.jsonl").exists()
    for seen in (lora_bytes, state_bytes, losses):
        assert seen(tmp_path / "with") == seen(tmp_path / "without")
