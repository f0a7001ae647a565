"""The example commands of musubi-tuner's Kontext and sd-scripts' FLUX pages, with only paths changed."""

import shlex
import shutil

import pytest
import toml
from jobs import draw_pictures, run

from musubi_flux_dev.tiny import tiny

MUSUBI_LATENTS = "--dataset_config {dataset} --vae {vae}"
MUSUBI_TEXTS = """--dataset_config {dataset} --text_encoder1 {t5} --text_encoder2 {clip} --batch_size 16"""
MUSUBI_TRAIN = """
    --dit {dit} --vae {vae} --text_encoder1 {t5} --text_encoder2 {clip} --dataset_config {dataset}
    --sdpa --mixed_precision bf16 --timestep_sampling flux_shift --weighting_scheme none
    --optimizer_type adamw8bit --learning_rate 1e-4 --gradient_checkpointing
    --max_data_loader_n_workers 2 --persistent_data_loader_workers
    --network_module networks.lora_flux --network_dim 32
    --max_train_epochs 16 --save_every_n_epochs 1 --seed 42 --output_dir {out} --output_name my_lora
"""
SD_SCRIPTS_TRAIN = """
    --pretrained_model_name_or_path={dit} --clip_l={clip} --t5xxl={t5} --ae={vae}
    --dataset_config={dataset} --output_dir={out} --output_name=my_lora --save_model_as=safetensors
    --network_module=networks.lora_flux --network_dim=16 --network_alpha=1 --learning_rate=1e-4
    --optimizer_type=AdamW8bit --lr_scheduler=constant --sdpa --max_train_epochs=10
    --save_every_n_epochs=1 --mixed_precision=fp16 --gradient_checkpointing --guidance_scale=1.0
    --timestep_sampling=flux_shift --model_prediction_type=raw --blocks_to_swap=18
    --cache_text_encoder_outputs --cache_latents
"""


@pytest.fixture
def places(tmp_path):
    """Tiny files with their tokenizers beside them, two pictures, and a dataset file."""
    models = tiny(tmp_path / "models")
    shutil.copytree(models["tokenizer"], tmp_path / "models" / "tokenizer")
    shutil.copytree(models["tokenizer2"], tmp_path / "models" / "tokenizer_2")
    draw_pictures(tmp_path / "pictures", sizes=[(64, 64), (80, 48)])
    dataset = {
        "general": {
            "resolution": [64, 64],
            "caption_extension": ".txt",
            "batch_size": 1,
            "enable_bucket": True,
        },
        "datasets": [
            {
                "image_directory": str(tmp_path / "pictures"),
                "cache_directory": str(tmp_path / "cached"),
                "num_repeats": 1,
            }
        ],
    }
    (tmp_path / "dataset.toml").write_text(toml.dumps(dataset))
    return {
        "dit": models["dit"],
        "vae": models["vae"],
        "clip": models["text_encoder"],
        "t5": models["text_encoder2"],
        "dataset": tmp_path / "dataset.toml",
        "out": tmp_path / "out",
    }


def words(command, places):
    return shlex.split(command.format(**{name: shlex.quote(str(path)) for name, path in places.items()}))


def checked(capsys, *flags):
    assert run("train", *flags, "--check") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("CHECKED")
    return said


def refused(capsys, *flags):
    assert run("train", *flags, "--check") == 2
    said = capsys.readouterr().out
    assert said.startswith("FAILED: ")
    return said


def test_musubis_training_command_passes_as_it_stands(places, capsys):
    said = checked(capsys, *words(MUSUBI_TRAIN, places))
    assert "note      text_encoder and text_encoder2 were given the other way round" in said
    assert "Read: text_encoder1 as text_encoder." in said
    for word in ("sdpa", "max_data_loader_n_workers", "persistent_data_loader_workers", "network_module"):
        assert word in said.partition("makes no difference: ")[2].splitlines()[0]
    assert "2 steps per epoch; 32 steps = 16 epochs" in said
    assert not list(places["out"].rglob("*.safetensors"))


def test_musubis_cache_commands_run_and_training_reuses_what_they_made(places, capsys, tmp_path):
    assert run("cache_latents", *words(MUSUBI_LATENTS, places)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "FINISHED latents of 2 pictures: 0 reused, 2 made"
    assert run("cache_text_encoder_outputs", *words(MUSUBI_TEXTS, places)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "FINISHED text-encoder outputs of 2 captions: 0 reused, 2 made"
    names = sorted(path.name for path in (tmp_path / "cached").iterdir())
    assert names == [
        "picture_0_0064x0064_fd.safetensors",
        "picture_0_fd_te.safetensors",
        "picture_1_0080x0048_fd.safetensors",
        "picture_1_fd_te.safetensors",
        "pictures.json",
    ]

    command = MUSUBI_TRAIN.replace("--max_train_epochs 16", "--max_train_epochs 1")
    assert run("train", *words(command, places)) == 0
    said = capsys.readouterr().out
    assert said.count(": 2 reused, 0 made\n") == 2
    assert said.splitlines()[-1] == f"FINISHED {places['out'] / 'my_lora.safetensors'}"


@pytest.mark.parametrize("words_of_others", ["--num_workers 2 --skip_existing --keep_cache --device cpu"])
def test_the_cache_programs_other_words_are_read(places, capsys, words_of_others):
    flags = words_of_others.split()
    assert run("cache_latents", *words(MUSUBI_LATENTS, places), *flags, "--batch_size", "1", "--check") == 0
    assert run("cache_text_encoder_outputs", *words(MUSUBI_TEXTS, places), *flags, "--check") == 0
    assert "skip_existing, keep_cache" in capsys.readouterr().out
    assert run("cache_text_encoder_outputs", *words(MUSUBI_TEXTS, places)) == 0
    assert run("cache_text_encoder_outputs", *words(MUSUBI_TEXTS, places), "--fp8_t5") == 0
    assert "2 redone (the settings changed" in capsys.readouterr().out


def test_sd_scripts_training_command_passes_when_two_values_are_replaced_as_told(places, capsys):
    command = words(SD_SCRIPTS_TRAIN, places)
    said = refused(capsys, *command)
    assert said.count("\nE") == 0
    assert 'mixed_precision = "fp16" is refused (the command line): FLUX.1\'s residual stream' in said
    assert "    Write:  --mixed_precision bf16\n" in said

    command[command.index("--mixed_precision=fp16")] = "--mixed_precision=bf16"
    said = refused(capsys, *command)
    assert "blocks_to_swap = 18: this transformer has 6 blocks (the command line)." in said
    assert "Write: --blocks_to_swap 6\n" in said
    assert len(said.splitlines()) == 5

    command[command.index("--blocks_to_swap=18")] = "--blocks_to_swap=6"
    said = checked(capsys, *command)
    assert "the other way round" not in said
    assert "clip_l as text_encoder, t5xxl as text_encoder2, ae as vae" in said
    assert "cache_latents" in said
    assert "2 steps per epoch; 20 steps = 10 epochs" in said


def test_the_same_words_in_a_file_are_told_the_line_to_paste(places, capsys, tmp_path):
    lines = {"dit": "dit", "vae": "ae", "clip": "clip_l", "t5": "t5xxl", "dataset": "dataset_config"}
    text = "".join(f"{word} = '{places[name]}'\n" for name, word in lines.items())
    (tmp_path / "train.toml").write_text(f"{text}blocks_to_swap = 18\nfp8_base = true\n")
    said = refused(capsys, tmp_path / "train.toml")
    assert "Write: blocks_to_swap = 6\n" in said
