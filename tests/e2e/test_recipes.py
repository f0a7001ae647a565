"""Recipes that people have pass the check with only their paths changed, in their own words."""

import shlex
import shutil

import pytest
import toml
from jobs import draw_pictures, run

from musubi_flux_dev.tiny import tiny

BLOCKS = 1
"""What the number of streamed blocks is replaced by: the tiny model has few."""

FOUNDING_TOML = """
[models]
dit = '{dit}'
vae = '{vae}'
text_encoder = '{clip}'
text_encoder2 = '{t5}'

[memory]
blocks_to_swap = 25
fp8_base = true
fp8_scaled = true
fp8_t5 = true

[network]
network_dim = 16
network_alpha = 16

[training]
dataset_config = '{dataset}'
learning_rate = 8e-5
ip_noise_gamma = 0.2
output_dir = '{out}'
output_name = "first"
"""
DIAGNOSTIC_REPORT = """
    --pretrained_model_name_or_path {dit} --clip_l {clip} --t5xxl {t5} --ae {vae}
    --dataset_config {dataset} --output_dir {out} --output_name identity
    --network_module networks.lora_flux --network_dim 64 --network_alpha 64 --network_dropout 0.1
    --network_train_unet_only --optimizer_type AdamW8bit --learning_rate 1e-4
    --lr_scheduler cosine_with_restarts --lr_warmup_steps 500 --max_train_steps 2500
    --gradient_accumulation_steps 4 --train_batch_size 1
    --noise_offset 0.1 --min_snr_gamma 5.0
    --timestep_sampling flux_shift --model_prediction_type raw --guidance_scale 1.0
    --discrete_flow_shift 1.0 --mixed_precision bf16 --sdpa --gradient_checkpointing --blocks_to_swap 18
    --cache_text_encoder_outputs --cache_latents --cache_latents_to_disk
    --save_model_as safetensors --save_precision bf16 --save_every_n_steps 500
    --sample_prompts {prompts} --sample_every_n_steps 250 --sample_sampler euler
    --seed 42 --max_data_loader_n_workers 4
"""
PLAN_WITH_A_UI = """
    --dit {dit} --vae {vae} --text_encoder {clip} --text_encoder2 {t5} --dataset_config {dataset}
    --output_dir {out} --resolution 64 --batch_size 1 --learning_rate 1e-4 --network_dim 4
    --max_train_steps 1000 --mixed_precision bf16 --gradient_checkpointing --optimizer_type AdamW
    --lr_scheduler constant_with_warmup --lr_warmup_steps 10 --timestep_sampling shift
    --discrete_flow_shift 3.0 --sigmoid_scale 1.0 --guidance_scale 1.0
"""
SD_SCRIPTS_SMALL_CARD = """
    --pretrained_model_name_or_path {dit} --clip_l {clip} --t5xxl {t5} --ae {vae}
    --cache_latents_to_disk --save_model_as safetensors --sdpa --persistent_data_loader_workers
    --max_data_loader_n_workers 2 --seed 42 --gradient_checkpointing --mixed_precision bf16
    --save_precision bf16 --network_module networks.lora_flux --network_dim 4 --network_train_unet_only
    --optimizer_type adamw8bit --learning_rate 1e-4 --cache_text_encoder_outputs
    --cache_text_encoder_outputs_to_disk --fp8_base --highvram --max_train_epochs 4
    --save_every_n_epochs 1 --dataset_config {dataset} --output_dir {out} --output_name flux-lora-name
    --timestep_sampling shift --discrete_flow_shift 3.1582 --model_prediction_type raw --guidance_scale 1.0
"""
COMMANDS = {
    "the diagnostic report": DIAGNOSTIC_REPORT,
    "the plan with a user interface": PLAN_WITH_A_UI,
    "sd-scripts on a small card": SD_SCRIPTS_SMALL_CARD,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Tiny files with their tokenizers beside them, two pictures, a dataset file and prompts."""
    folder = tmp_path_factory.mktemp("recipes")
    models = tiny(folder / "models")
    shutil.copytree(models["tokenizer"], folder / "models" / "tokenizer")
    shutil.copytree(models["tokenizer2"], folder / "models" / "tokenizer_2")
    draw_pictures(folder / "pictures", sizes=[(64, 64), (80, 48)])
    dataset = {
        "general": {"enable_bucket": True},
        "datasets": [
            {"image_directory": str(folder / "pictures"), "cache_directory": str(folder / "cached")}
        ],
    }
    (folder / "dataset.toml").write_text(toml.dumps(dataset))
    (folder / "prompts.txt").write_text("a portrait of TOK woman --w 64 --h 64 --s 1\n")
    return {
        "dit": models["dit"],
        "vae": models["vae"],
        "clip": models["text_encoder"],
        "t5": models["text_encoder2"],
        "dataset": folder / "dataset.toml",
        "prompts": folder / "prompts.txt",
        "out": folder / "out",
    }


@pytest.fixture
def checked(capsys):
    """Check a recipe; return what is said."""

    def checked(*words):
        code = run("train", *words, "--check")
        said = capsys.readouterr().out
        assert code == 0, said
        assert said.splitlines()[-1] == "CHECKED: nothing stands in the way"
        return said

    return checked


def words_of(command, places):
    quoted = {key: shlex.quote(str(path)) for key, path in places.items()}
    return shlex.split(command.format(**quoted).replace("--blocks_to_swap 18", f"--blocks_to_swap {BLOCKS}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_passes_with_only_its_paths_changed(places, checked, name):
    assert "steps per epoch" in checked(*words_of(COMMANDS[name], places))


def test_the_founding_file_passes_with_only_its_paths_changed(places, checked, tmp_path):
    path = tmp_path / "flux_dev.toml"
    path.write_text(FOUNDING_TOML.format(**places).replace("swap = 25", f"swap = {BLOCKS}"))
    said = checked(path)
    assert "2000 steps" in said


def test_the_report_s_values_reach_the_plan(places, checked):
    said = checked(*words_of(DIAGNOSTIC_REPORT, places))
    assert "(batch 1 x accumulation 4)" in said
    assert "2500 steps" in said
    assert "discrete_flow_shift has no effect here" in said
    assert "sample_sampler" in said.partition("makes no difference: ")[2].splitlines()[0]


@pytest.mark.parametrize("in_file", [True, False])
def test_half_precision_is_all_that_is_refused_and_the_line_to_paste_is_told(
    places, capsys, tmp_path, in_file
):
    text = FOUNDING_TOML.format(**places).replace("swap = 25", "swap = 0")
    for name in ("fp8_base", "fp8_scaled"):
        text = text.replace(f"{name} = true\n", "")
    path = tmp_path / "half.toml"
    path.write_text(f'mixed_precision = "fp16"\n{text}' if in_file else text)
    assert run("train", path, *([] if in_file else ["--mixed_precision", "fp16"]), "--check") == 2
    said = capsys.readouterr().out
    place, paste = (
        ("half.toml, line 1", 'mixed_precision = "bf16"')
        if in_file
        else ("the command line", "--mixed_precision bf16")
    )
    assert said.startswith(f'FAILED: E03 mixed_precision = "fp16" is refused ({place}): FLUX.1\'s residual')
    assert said.endswith(f"    Write:  {paste}\n")
    assert said.count("FAILED") == 1
