"""Results that are there already, places that cannot hold any, and what cannot be resumed from."""

import shutil

import pytest
from jobs import train, write_job


def test_a_finished_lora_of_other_settings_is_not_replaced(tmp_path, refusal):
    job = write_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    lora = tmp_path / "out" / "lora.safetensors"
    message = refusal(job, "--seed", "7")
    assert message.startswith(f"{lora} is there already, from a run with other settings or pictures.")
    assert "--output_name lora-2\n" in message
    assert "--overwrite" in message
    shutil.copy(lora, lora.with_name("lora-2.safetensors"))
    assert "--output_name lora-3\n" in refusal(job, "--seed", "7")
    (tmp_path / "pictures" / "picture_0.txt").write_text("another caption")
    assert str(lora) in refusal(job)


@pytest.mark.parametrize(
    "name", ["lora.safetensors", "lora-000002.safetensors", "lora-step00000005.safetensors"]
)
def test_a_file_of_unknown_origin_is_not_replaced(tmp_path, refusal, name):
    job = write_job(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"precious")
    assert refusal(job).startswith(f"{tmp_path / 'out' / name} is there already")


def test_a_damaged_record_does_not_make_a_lora_free_to_replace(tmp_path, refusal):
    job = write_job(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lora.safetensors").write_bytes(b"precious")
    for record in ("", "[]", '{"finished": true}'):
        (tmp_path / "out" / "lora.run.json").write_text(record)
        assert "is there already" in refusal(job)


def test_an_output_that_cannot_be_written_is_refused(tmp_path, refusal):
    job = write_job(tmp_path)
    (tmp_path / "taken").write_text("a file")
    for place in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        message = refusal(job, "--output_dir", place)
        assert message.startswith(
            f"output_dir = '{place}' cannot be a folder: {tmp_path / 'taken'} is a file"
        )
    message = refusal(job, "--output_name", "styles/cat")
    assert 'output_name = "styles/cat" is no plain file name' in message
    assert 'output_name = "cat"' in message


@pytest.mark.parametrize(
    ("name", "better"),
    [("cat.safetensors", "cat"), ("c\tat", "cat"), ("c" * 260, "c" * 60), ("\x7f", "lora")],
)
def test_an_output_name_that_no_file_can_have_is_refused_with_a_better_one(tmp_path, refusal, name, better):
    message = refusal(write_job(tmp_path), "--output_name", name)
    assert "is no good name" in message
    assert f'Write  output_name = "{better}"' in message


def test_resuming_from_the_wrong_thing_is_refused_with_the_right_one(tmp_path, refusal):
    job = write_job(tmp_path, max_train_steps=2, save_state_on_train_end=True)
    message = refusal(job, "--resume", "latest")
    assert message.startswith('E23 resume = "latest", but ')
    assert "Remove  resume  to begin anew" in message
    assert train(job) == 0
    state, lora = tmp_path / "out" / "lora-state", tmp_path / "out" / "lora.safetensors"

    message = refusal(job, "--resume", lora)
    assert message.startswith(f"E23 resume = '{lora}' is a file (a finished LoRA?), not a saved state (")
    assert f"To go on exactly:   resume = '{state}'" in message
    assert f"network_weights = '{lora}'" in message
    assert f"resume = '{tmp_path / 'gone'}' does not exist" in refusal(job, "--resume", tmp_path / "gone")
    assert "is not a whole saved state" in refusal(job, "--resume", tmp_path / "out")

    message = refusal(
        job, "--resume", state, "--network_dim", "8", "--seed", "3", "--dit", changed_model(tmp_path)
    )
    assert message.count("E23 ") == 3
    assert "begun with network_dim = 4; the configuration now says 8" in message
    assert "Set seed = 42 to go on" in message
    assert "The file of dit changed" in message

    (state / "optimizer.pt").write_bytes(b"half")
    assert f"resume = '{state}' is not a whole saved state" in refusal(job, "--resume", state)


def changed_model(folder):
    content = bytearray((folder / "models" / "dit.safetensors").read_bytes())
    content[-1] ^= 1
    path = folder / "changed.safetensors"
    path.write_bytes(content)
    return path
