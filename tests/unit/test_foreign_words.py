"""The words of musubi-tuner and sd-scripts: read, accepted, or refused with a reason."""

import shlex

import pytest
from config_toy import ToySettings, load, problems_of, refusal, write

from dataset.config_rules import SHARED_RULES
from dataset.foreign_keys import ALIASES, BUCKET_WORDS, FOREIGN_KEYS
from host.config import load_config
from host.dataset_tables import PARENT_WORDS
from host.errors import ConfigError
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES
from host.settings import CONTROL_WORDS, all_fields

OURS = all_fields(ToySettings)

MUSUBI = """
config_file dataset_config dit vae vae_dtype sdpa flash_attn sage_attn xformers flash3 split_attn compile
compile_backend compile_mode compile_dynamic compile_fullgraph compile_cache_size_limit cuda_allow_tf32
cuda_cudnn_benchmark dynamo_backend dynamo_mode dynamo_fullgraph dynamo_dynamic max_train_steps
max_train_epochs max_data_loader_n_workers persistent_data_loader_workers seed gradient_checkpointing
gradient_checkpointing_cpu_offload gradient_accumulation_steps mixed_precision save_precision logging_dir
log_with log_prefix log_tracker_name wandb_run_name wandb_api_key log_tracker_config log_config
ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph sample_every_n_steps sample_every_n_epochs
sample_at_first sample_prompts optimizer_type optimizer_args learning_rate max_grad_norm lr_scheduler
lr_warmup_steps lr_decay_steps lr_scheduler_num_cycles lr_scheduler_power lr_scheduler_timescale
lr_scheduler_min_lr_ratio lr_scheduler_type lr_scheduler_args fp8_base fp8_scaled blocks_to_swap
use_pinned_memory_for_block_swap block_swap_h2d_only block_swap_ring_size img_in_txt_in_offloading
disable_numpy_memmap guidance_scale timestep_sampling discrete_flow_shift sigmoid_scale weighting_scheme
logit_mean logit_std mode_scale min_timestep max_timestep preserve_distribution_shape num_timestep_buckets
show_timesteps no_metadata network_weights network_module network_dim network_alpha network_dropout
network_args training_comment dim_from_weights scale_weight_norms base_weights base_weights_multiplier
output_dir output_name resume save_every_n_epochs save_every_n_steps save_last_n_epochs
save_last_n_epochs_state save_last_n_steps save_last_n_steps_state save_state save_state_on_train_end
metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_reso
metadata_arch huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token
huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload text_encoder1
text_encoder2 fp8_t5 text_encoder fp8_text_encoder model_version num_layers fp8_vl edit fp8_llm
dit_in_channels
"""
MUSUBI_CACHE_SCRIPTS = """
dataset_config device batch_size num_workers skip_existing keep_cache vae vae_dtype debug_mode
console_width console_back console_num_images disable_cudnn_backend vae_tiling vae_chunk_size
vae_spatial_tile_sample_min_size text_encoder1 text_encoder2 fp8_t5 text_encoder fp8_text_encoder
model_version
"""
SD_SCRIPTS = """
pretrained_model_name_or_path clip_l t5xxl ae model_type t5xxl_max_token_length apply_t5_attn_mask
guidance_scale timestep_sampling sigmoid_scale discrete_flow_shift model_prediction_type weighting_scheme
logit_mean logit_std mode_scale cache_latents cache_latents_to_disk cache_text_encoder_outputs
cache_text_encoder_outputs_to_disk text_encoder_batch_size vae_batch_size disable_mmap_load_safetensors
blocks_to_swap split_mode fp8_base fp8_base_unet cpu_offload_checkpointing network_train_unet_only
network_train_text_encoder_only unet_lr text_encoder_lr train_batch_size mixed_precision full_fp16
full_bf16 save_precision save_model_as loss_type huber_schedule huber_c huber_scale ip_noise_gamma
ip_noise_gamma_random_strength noise_offset adaptive_noise_scale multires_noise_iterations
multires_noise_discount min_snr_gamma debiased_estimation_loss v_pred_like_loss
scale_v_pred_loss_like_noise_pred min_timestep max_timestep prior_loss_weight masked_loss alpha_mask
max_token_length clip_skip initial_epoch initial_step skip_until_initial_step validation_split
validation_seed validate_every_n_steps validate_every_n_epochs max_validation_steps lowram highvram
deepspeed torch_compile output_config train_blocks use_8bit_adam
"""


@pytest.mark.parametrize("names", [MUSUBI, MUSUBI_CACHE_SCRIPTS, SD_SCRIPTS])
def test_every_argument_of_the_other_trainers_is_known(names):
    assert [n for n in names.split() if n not in {**OURS, **FOREIGN_WORDS, **CONTROL_WORDS}] == []


def test_a_word_of_ours_stands_in_no_other_table():
    assert sorted(OURS.keys() & FOREIGN_WORDS.keys()) == []


def test_every_alias_names_a_setting_and_every_word_has_one_meaning():
    for name, word in FOREIGN_WORDS.items():
        targets = [word.means, word.sets[0] if word.sets else "", word.dataset_key]
        assert all(target in OURS for target in targets[:2] if target), name
        assert sum(map(bool, [*targets, word.any_value, word.why])) == 1, name


def test_every_refused_value_is_of_a_setting_that_takes_the_better_one():
    for (name, value), refused in REFUSED_VALUES.items():
        choices = OURS[name].metadata["setting"].choices
        assert refused.better in choices, name
        assert value not in choices, (name, value)


def test_every_default_of_the_pictures_may_be_given_among_the_training_settings():
    ours = SHARED_RULES.keys() - {"resolutions"}
    assert {key for key in ours if FOREIGN_WORDS[key].dataset_key == key} == ours
    others = {word.dataset_key for word in FOREIGN_WORDS.values() if word.dataset_key} - ours
    assert others <= {*FOREIGN_KEYS, *ALIASES, *BUCKET_WORDS, *PARENT_WORDS}


MUSUBI_KONTEXT = """
--dit d.safetensors --vae ae.safetensors --text_encoder1 t5.safetensors --text_encoder2 clip.safetensors
--sdpa --mixed_precision bf16 --timestep_sampling flux_shift --weighting_scheme none --optimizer_type
adamw8bit --learning_rate 1e-4 --gradient_checkpointing --max_data_loader_n_workers 2
--persistent_data_loader_workers --network_module networks.lora_flux --network_dim 32 --max_train_epochs
16 --save_every_n_epochs 1 --seed 42 --output_dir D --output_name N
"""

SD_SCRIPTS_FLUX = """
--pretrained_model_name_or_path=d.safetensors --clip_l=c.safetensors --t5xxl=t.safetensors
--ae=ae.safetensors --output_dir=D --output_name=N --save_model_as=safetensors
--network_module=networks.lora_flux --network_dim=16 --network_alpha=1 --learning_rate=1e-4
--optimizer_type=AdamW8bit --lr_scheduler=constant --sdpa --max_train_epochs=10 --save_every_n_epochs=1
--mixed_precision=fp16 --gradient_checkpointing --guidance_scale=1.0 --timestep_sampling=flux_shift
--model_prediction_type=raw --blocks_to_swap=18 --cache_text_encoder_outputs --cache_latents
"""


@pytest.fixture
def pictures(tmp_path):
    return [
        "--dataset_config",
        write(tmp_path, "[[datasets]]\nimage_directory = 'a'\n", name="pictures.toml"),
    ]


def test_the_documented_command_of_musubi_is_accepted(pictures):
    config = load(*shlex.split(MUSUBI_KONTEXT), *pictures)
    assert str(config.settings.plugin.text_encoder) == "t5.safetensors"
    assert str(config.settings.plugin.text_encoder2) == "clip.safetensors"
    assert config.settings.fit.max_train_epochs == 16
    assert config.notes == (
        "Read: text_encoder1 as text_encoder.",
        "Accepted, because it is done anyway or makes no difference: sdpa, max_data_loader_n_workers, "
        "persistent_data_loader_workers, network_module.",
    )


def test_the_documented_command_of_sd_scripts_is_refused_for_its_precision_only(pictures):
    (message,) = problems_of([*shlex.split(SD_SCRIPTS_FLUX), *pictures])
    assert 'mixed_precision = "fp16" is refused' in message
    assert "residual stream" in message
    assert "Write:  --mixed_precision bf16" in message


def test_the_documented_command_of_sd_scripts_is_accepted_with_bf16(pictures):
    config = load(*shlex.split(SD_SCRIPTS_FLUX.replace("fp16", "bf16")), *pictures)
    assert str(config.settings.model.dit) == "d.safetensors"
    assert str(config.settings.model.vae) == "ae.safetensors"
    assert str(config.settings.plugin.text_encoder2) == "t.safetensors"
    assert config.settings.model.blocks_to_swap == 18
    assert config.origins["dit"] == "alias pretrained_model_name_or_path (flag)"


@pytest.mark.parametrize(
    "words",
    [
        "--vae ae.safetensors --batch_size 4 --num_workers 2 --skip_existing --keep_cache --device cpu",
        "--text_encoder1 t5.safetensors --text_encoder2 clip.safetensors --batch_size 16 --fp8_t5",
    ],
)
def test_the_documented_commands_of_the_cache_scripts_are_accepted(pictures, words):
    config = load(*words.split(), *pictures)
    assert config.dataset_document is not None
    assert "batch_size" in config.dataset_document["general"]


def test_the_line_to_paste_for_a_refused_value_in_a_file(tmp_path):
    message = refusal(write(tmp_path, 'mixed_precision = "fp16"'))
    assert 'Write:  mixed_precision = "bf16"' in message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('network_module = "networks.lora"', "this module is for another model or adapter"),
        ('model_prediction_type = "sigma_scaled"', "only raw compares"),
        ('save_model_as = "ckpt"', "safetensors only"),
        ("cache_latents = false", "always cached"),
        ("apply_t5_attn_mask = true", "the padding goes to the transformer"),
        ("full_bf16 = true", "kept in float32"),
        ("compile = true", "not built yet"),
        ("gradient_checkpointing_cpu_offload = true", "not built"),
        ('train_blocks = "single"', "exclude_patterns=['double_blocks.*']"),
        ("keep_cache = false", "clean_cache = true"),
        ("clip_skip = 2", "no layer can be skipped"),
        ('timestep_sampling = "sigma"', "discrete levels"),
        ('timestep_sampling = "qwen_shift"', "another model"),
        ('weighting_scheme = "logit_normal"', "weighs no loss"),
        ("save_last_n_steps = 30", "counts steps, not files"),
        ('image_directory = "a"', "below [general] or [[datasets]]"),
    ],
)
def test_another_value_is_refused_with_the_reason_and_the_line(tmp_path, line, reason):
    message = refusal(write(tmp_path, f"seed = 1\n{line}"))
    assert reason in message
    assert "train.toml, line 2" in message


@pytest.mark.parametrize(
    "line",
    ["apply_t5_attn_mask = false", "full_bf16 = false", "sdpa = false", "lowram = true", "num_workers = 8",
     "compile = false", 'compile_dynamic = "auto"', "mode_scale = 1.29"],
)  # fmt: skip
def test_a_neutral_value_is_accepted_and_named(tmp_path, line):
    (note,) = load(write(tmp_path, line)).notes
    assert note.endswith(f": {line.partition(' ')[0]}.")


def test_true_is_not_the_number_one(tmp_path):
    assert "clip_skip must be a whole number" in refusal(write(tmp_path, "clip_skip = true"))


def test_a_text_is_no_switch_here_either(tmp_path):
    assert 'sdpa is the text "true", not true or false' in refusal(write(tmp_path, 'sdpa = "true"'))


def test_attention_by_another_name_is_our_attention(tmp_path):
    config = load(write(tmp_path, "sdpa = true"), "--xformers")
    assert config.settings.model.attn_mode == "xformers"
    assert config.origins["attn_mode"] == "alias xformers (flag)"


def test_two_words_for_one_setting_must_agree(tmp_path):
    message = refusal(write(tmp_path, "learning_rate = 1e-4\nunet_lr = 2e-4\n"))
    assert "learning_rate and unet_lr mean the same: train.toml, line 1 and train.toml, line 2" in message
    assert (
        load(write(tmp_path, "learning_rate = 1e-4\nunet_lr = 1e-4\n")).settings.optimizer.learning_rate
        == 1e-4
    )


def test_a_wrong_value_of_an_alias_is_told_by_the_word_that_was_written(tmp_path):
    assert "clip_l is empty (train.toml, line 1)" in refusal(write(tmp_path, 'clip_l = ""'))


def test_an_alias_of_what_the_architecture_lacks_is_refused():
    with pytest.raises(ConfigError, match=r'"t5xxl" means text_encoder2 .* this architecture does not have'):
        load_config(["--t5xxl", "x", "--architecture", "toy_architecture:SPEC"], prog="train.py")


@pytest.mark.parametrize("name", ["wandb_api_key", "huggingface_token"])
def test_a_key_to_an_account_is_refused_without_being_shown(tmp_path, name):
    message = refusal(write(tmp_path, f'{name} = "s3cret"'))
    assert f"{name} cannot be followed" in message
    assert "s3cret" not in message
