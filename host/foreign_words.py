"""One table of the words of musubi-tuner and sd-scripts that are not settings of ours.

Each is read as another name of ours, accepted because it says what is done anyway, or refused
with the reason. A setting of the host or of the plugin always goes before a word of this table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

REMOVE = "Remove it."


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignWord:
    """What one word of other trainers is to us."""

    kind: type = bool
    """What follows it on the command line; unused when ``means`` is set."""
    means: str = ""
    """The setting of ours that it is another name of."""
    sets: tuple[str, object] | None = None
    """The setting and the value that the word, when true, stands for."""
    dataset_key: str = ""
    """The key of the dataset's ``[general]`` that it is a default of; or a folder of datasets."""
    neutral: tuple[object, ...] = ()
    """The values that say what is done anyway."""
    any_value: bool = False
    """True when every value is as good as another."""
    why: str = ""
    """Why another value cannot be followed; a sentence without its full stop."""
    remedy: str = REMOVE
    secret: bool = False
    """True when its value must not be shown."""

    @property
    def is_of_pictures(self) -> bool:
        """Whether it describes the pictures, so that it is a word of ours too."""
        return bool(self.dataset_key) or self.why == _IN_DATASET

    def accepts(self, value: object) -> bool:
        """Return whether ``value`` asks for nothing that is not done anyway."""
        return self.any_value or value in self.neutral


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedValue:
    """Why a value that other trainers know is none of ours, and what to write."""

    why: str
    better: str


def _alias(means: str) -> ForeignWord:
    return ForeignWord(means=means)


def _sets(name: str, value: object) -> ForeignWord:
    return ForeignWord(sets=(name, value))


def _dataset(key: str, kind: type) -> ForeignWord:
    return ForeignWord(dataset_key=key, kind=kind)


def _neutral(*values: object, why: str, do: str = REMOVE) -> ForeignWord:
    return ForeignWord(kind=type(values[0]), neutral=values, why=why, remedy=do)


def _any(kind: type = bool) -> ForeignWord:
    return ForeignWord(kind=kind, any_value=True)


CHOOSE_BLOCKS = (
    "Write  network_args = [\"exclude_patterns=['single_blocks.*']\"]  for double blocks only, or\n"
    "network_args = [\"exclude_patterns=['double_blocks.*']\"]  for single blocks only."
)
"""What to write instead of sd-scripts' ``train_blocks``."""


def _refused(kind: type = bool, *, why: str, do: str = REMOVE) -> ForeignWord:
    # A switch that is off asks for nothing.
    return ForeignWord(kind=kind, neutral=(False,) if kind is bool else (), why=why, remedy=do)


def _each(names: str, word: ForeignWord) -> dict[str, ForeignWord]:
    return dict.fromkeys(names.split(), word)


def _dataset_words() -> Iterator[tuple[str, ForeignWord]]:
    """Yield the words that describe pictures; what a value of them does is for the dataset's rules to say."""
    defaults: dict[type, str] = {
        str: "caption_extension missing_caption class_tokens trigger_word caption_separator "
        "secondary_separator keep_tokens_separator caption_prefix caption_suffix mask_suffix missing_mask "
        "train_data_dir reg_data_dir resize_interpolation",
        int: "keep_tokens caption_variants min_bucket_reso max_bucket_reso bucket_reso_steps "
        "caption_dropout_every_n_epochs token_warmup_min validation_seed",
        float: "caption_dropout_rate caption_tag_dropout_rate unmasked_weight token_warmup_step "
        "validation_split",
        bool: "enable_bucket bucket_no_upscale recursive skip_unreadable shuffle_caption enable_wildcard "
        "flip_aug alpha_mask masked_loss color_aug random_crop",
    }
    yield from ((name, _dataset(name, kind)) for kind, names in defaults.items() for name in names.split())
    one_by_one: dict[type, str] = {
        str: "image_directory image_jsonl_file cache_directory caption_directory mask_directory image_dir "
        "control_directory metadata_file conditioning_data_dir in_json face_crop_aug_range",
        list: "resolutions exclude",
        bool: "is_reg",
    }
    for kind, names in one_by_one.items():
        yield from ((name, _refused(kind, why=_IN_DATASET, do=_TO_DATASET)) for name in names.split())


_CACHED = "latents and text are always cached, on disk"
_COMPILE = "compiling the blocks is not built yet"
_FASTER = "Remove it; where memory allows, a step is faster with  gradient_checkpointing = false"
_NO_DDP = "this trainer does not tune how processes exchange gradients"
_NO_HUB = "this trainer uploads nothing and fetches nothing"
_NO_TEXT_TRAINING = "only the transformer is trained; the text encoders' outputs are cached"
_OTHER_MODEL = "it belongs to another model than FLUX.1"
_PREVIEW = "the cache programs make caches only"
_RESUME = "resuming continues at the exact step by itself"
_CHOOSE_TRACKER = "Write log_with and logging_dir, or log_tracker_name."
_IN_DATASET = "it describes the pictures"
_TO_DATASET = "Move the line below [general] or [[datasets]], where the dataset is described."
_MERGE_FIRST = "Merge the LoRA into the model file first and train on the result."
_NO_CLEANING = "no cache entry is deleted unless clean_cache = true asks for it"
_NO_HALF = "the LoRA is kept in float32: small steps vanish in half precision"
_NOT_FOR_FLUX = "it has no effect on FLUX.1"
_NOT_REPEATABLE = "it would change numbers from machine to machine"
_SECRET = "a key in a file is soon in other hands"
_WRITE_LOGIN = "Run  wandb login  once, or set WANDB_API_KEY."
_UNFIT_ATTENTION = "it cannot be used for training FLUX.1 here"
_WRITE_ATTENTION = 'Write  attn_mode = "torch"'
_NOT_FILES = "it counts steps, not files"
_WRITE_COUNT = "Write  save_last_n = the number of files to keep"
_WRITE_LATEST = 'Write  resume = "latest"'

FOREIGN_WORDS: Mapping[str, ForeignWord] = {
    "pretrained_model_name_or_path": _alias("dit"),
    "ae": _alias("vae"),
    **_each("clip_l text_encoder1", _alias("text_encoder")),
    "t5xxl": _alias("text_encoder2"),
    "unet_lr": _alias("learning_rate"),
    "fp8_base_unet": _alias("fp8_base"),
    **_each("disable_mmap_load_safetensors disable_numpy_memmap", _alias("disable_mmap")),
    "save_last_n_epochs": _alias("save_last_n"),
    "save_last_n_epochs_state": _alias("save_last_n_state"),
    "wandb_project": _alias("log_tracker_name"),
    "sdpa": _sets("attn_mode", "torch"),
    "flash_attn": _sets("attn_mode", "flash"),
    "xformers": _sets("attn_mode", "xformers"),
    "use_8bit_adam": _sets("optimizer_type", "AdamW8bit"),
    "split_mode": _sets("blocks_to_swap", 18),
    **_each("batch_size train_batch_size", _dataset("batch_size", int)),
    **_each("num_repeats dataset_repeats", _dataset("num_repeats", int)),
    "resolution": _dataset("resolution", str),
    "network_module": _neutral(
        "networks.lora_flux",
        why="the adapter is a LoRA on FLUX.1's blocks, and this module is for another model or adapter",
        do='Write  network_module = "networks.lora_flux"  or remove it.',
    ),
    "model_type": _neutral("flux", why=_OTHER_MODEL),
    "model_prediction_type": _neutral(
        "raw",
        why="only raw compares the model's velocity with noise - latents; the others train a wrong LoRA",
        do='Write  model_prediction_type = "raw"  or remove it.',
    ),
    "save_model_as": _neutral(
        "safetensors",
        why="a LoRA is saved as safetensors only",
        do='Write  save_model_as = "safetensors"  or remove it.',
    ),
    "cache_latents": _neutral(True, why=_CACHED),
    "cache_latents_to_disk": _neutral(True, why=_CACHED),
    "cache_text_encoder_outputs": _neutral(True, why=_CACHED),
    "cache_text_encoder_outputs_to_disk": _neutral(True, why=_CACHED),
    "network_train_unet_only": _neutral(True, why=_NO_TEXT_TRAINING),
    **_each("network_train_text_encoder_only train_text_encoder", _refused(why=_NO_TEXT_TRAINING)),
    "text_encoder_lr": _refused(list, why=_NO_TEXT_TRAINING),
    "t5xxl_max_token_length": _neutral(
        512, why="FLUX.1 dev reads 512 tokens of T5, and training with fewer would differ from every use"
    ),
    "apply_t5_attn_mask": _refused(
        why="FLUX.1 was trained without it, and so are pictures made: the padding goes to the transformer"
    ),
    "max_token_length": _neutral(75, why="CLIP's part of FLUX.1 is one vector of at most 77 tokens"),
    "clip_skip": _neutral(1, why="FLUX.1 uses CLIP's pooled output, so no layer can be skipped"),
    "train_blocks": _neutral(
        "all",
        why="blocks are chosen by patterns here",
        do=CHOOSE_BLOCKS,
    ),
    "split_qkv": _refused(why="q, k and v share one LoRA, as every program that reads the file expects"),
    "dim_from_weights": _any(),
    "scale_weight_norms": _neutral(0.0, why="the LoRA's weights are not scaled while training"),
    **_each("base_weights base_weights_multiplier", _refused(list, why="nothing is merged", do=_MERGE_FIRST)),
    **_each("full_bf16 full_fp16", _refused(why=_NO_HALF)),
    "no_half_vae": _any(),
    "vae_dtype": _neutral("float32", "fp32", why="latents are computed once, in float32"),
    "vae_tiling": _refused(why=_NOT_FOR_FLUX),
    **_each("vae_chunk_size vae_spatial_tile_sample_min_size", _refused(int, why=_NOT_FOR_FLUX)),
    **_each("vae_batch_size text_encoder_batch_size", _any(int)),
    **_each("num_workers max_data_loader_n_workers", _any(int)),
    **_each("persistent_data_loader_workers lowram highvram", _any()),
    "skip_existing": _neutral(
        True, why="sound cache entries always stay", do="To compute anew, delete the cache folder."
    ),
    "keep_cache": _neutral(True, why=_NO_CLEANING),
    "skip_cache_check": _refused(why="a stale cache would train on other pictures than yours"),
    "debug_mode": _refused(str, why=_PREVIEW),
    **_each("console_width console_num_images", _refused(int, why=_PREVIEW)),
    "console_back": _refused(str, why=_PREVIEW),
    **_each("cuda_allow_tf32 cuda_cudnn_benchmark disable_cudnn_backend", _refused(why=_NOT_REPEATABLE)),
    **_each("gradient_checkpointing_cpu_offload cpu_offload_checkpointing", _refused(why="it is not built")),
    **_each("use_pinned_memory_for_block_swap block_swap_h2d_only", _any()),
    "block_swap_ring_size": _any(int),
    "img_in_txt_in_offloading": _refused(why=_OTHER_MODEL),
    "fused_backward_pass": _refused(why="it is for training whole models, not a LoRA"),
    **_each("mem_eff_attn sage_attn flash3", _refused(why=_UNFIT_ATTENTION, do=_WRITE_ATTENTION)),
    **_each("compile torch_compile compile_fullgraph", _refused(why=_COMPILE, do=_FASTER)),
    **_each("dynamo_fullgraph dynamo_dynamic", _refused(why=_COMPILE)),
    "compile_backend": _neutral("inductor", why=_COMPILE),
    **_each("compile_mode dynamo_mode", _neutral("default", why=_COMPILE)),
    "compile_dynamic": _neutral("auto", "false", why=_COMPILE),
    "compile_cache_size_limit": _refused(int, why=_COMPILE),
    "dynamo_backend": _neutral("NO", "no", why=_COMPILE),
    **_each("deepspeed ddp_gradient_as_bucket_view ddp_static_graph", _refused(why=_NO_DDP)),
    "ddp_timeout": _refused(int, why=_NO_DDP),
    "mode_scale": _neutral(1.29, why='it acts only on timestep_sampling = "sigma", which is not offered'),
    "preserve_distribution_shape": _refused(
        why="noise levels are scaled into min_timestep to max_timestep, never drawn again"
    ),
    "num_timestep_buckets": _neutral(0, 1, why="noise levels are drawn for each sample by itself"),
    "show_timesteps": _refused(str, why="the noise levels cannot be shown as a picture"),
    "huber_schedule": _neutral("constant", why="huber_c is the same at every noise level"),
    "huber_scale": _neutral(1.0, why="the loss is not scaled"),
    **_each("adaptive_noise_scale multires_noise_iterations", _neutral(0.0, why=_NOT_FOR_FLUX)),
    **_each("debiased_estimation_loss scale_v_pred_loss_like_noise_pred", _refused(why=_OTHER_MODEL)),
    **_each("v_parameterization v2", _refused(why=_OTHER_MODEL)),
    "v_pred_like_loss": _neutral(0.0, why=_OTHER_MODEL),
    "multires_noise_discount": _any(float),
    **_each("initial_epoch initial_step", _refused(int, why=_RESUME, do=_WRITE_LATEST)),
    "skip_until_initial_step": _any(),
    "sample_sampler": _neutral("euler", "k_euler", why="pictures are made by one sampler, Euler"),
    "lr_scheduler_type": _refused(str, why="schedules go by name", do="Write  lr_scheduler  instead."),
    "lr_scheduler_args": _refused(
        list,
        why="a schedule has settings of its own",
        do="Use lr_scheduler_min_lr_ratio, _power, _num_cycles or _timescale.",
    ),
    **_each("save_last_n_steps save_last_n_steps_state", _refused(int, why=_NOT_FILES, do=_WRITE_COUNT)),
    "save_n_epoch_ratio": _refused(int, why="saves come at fixed steps", do="Write  save_every_n_epochs"),
    "output_config": _refused(why="the resolved settings are always written beside the result"),
    "log_config": _any(),
    "log_prefix": _refused(str, why="each run logs into its own folder", do=_CHOOSE_TRACKER),
    "wandb_run_name": _refused(str, why="a run goes by its output_name", do=_CHOOSE_TRACKER),
    "log_tracker_config": _refused(str, why="trackers have no settings of their own", do=_CHOOSE_TRACKER),
    "wandb_api_key": ForeignWord(kind=str, secret=True, why=_SECRET, remedy=_WRITE_LOGIN),
    "huggingface_token": ForeignWord(kind=str, secret=True, why=_SECRET),
    **_each("metadata_reso metadata_arch", _refused(str, why="it is written from the dataset and the model")),
    **_each("huggingface_repo_id huggingface_repo_type", _refused(str, why=_NO_HUB)),
    **_each("huggingface_path_in_repo huggingface_repo_visibility", _refused(str, why=_NO_HUB)),
    **_each("save_state_to_huggingface resume_from_huggingface async_upload", _refused(why=_NO_HUB)),
    **_each("fp8_text_encoder fp8_vl fp8_llm edit edit_plus", _refused(why=_OTHER_MODEL)),
    "model_version": _neutral("dev", why=_OTHER_MODEL),
    **_each("num_layers dit_in_channels", _refused(int, why=_OTHER_MODEL)),
    **dict(_dataset_words()),
}

_OTHER_SHIFT = "its shift fits another model than FLUX.1"
_NOT_CONTINUOUS = "it draws discrete levels of a schedule without the resolution's shift"
_ONLY_IN_SIGMA_MODE = 'in other trainers it acts only on timestep_sampling = "sigma" and weighs no loss'


_SHIFTS_OF_OTHERS = "flux2_shift qwen_shift krea2_shift ideogram4_shift qinglong_qwen"
_LOGSNR = "it is logit_normal by another sign and scale"
_NO_FP16 = "FLUX.1's residual stream outgrows fp16's range and the loss becomes nan"


def _refusals(name: str, values: str, why: str, better: str) -> dict[tuple[str, str], RefusedValue]:
    return {(name, value): RefusedValue(why=why, better=better) for value in values.split()}


REFUSED_VALUES: Mapping[tuple[str, str], RefusedValue] = {
    **_refusals("mixed_precision", "fp16", _NO_FP16, "bf16"),
    **_refusals("timestep_sampling", "sigma", _NOT_CONTINUOUS, "flux_shift"),
    **_refusals("timestep_sampling", _SHIFTS_OF_OTHERS, _OTHER_SHIFT, "flux_shift"),
    **_refusals("timestep_sampling", "logsnr", _LOGSNR, "logit_normal"),
    **_refusals("timestep_sampling", "qinglong_flux", "it mixes three distributions", "flux_shift"),
    **_refusals("weighting_scheme", "logit_normal mode", _ONLY_IN_SIGMA_MODE, "none"),
    **_refusals("attn_mode", "sdpa", "that is called torch here", "torch"),
    **_refusals("attn_mode", "sageattn flash3", _UNFIT_ATTENTION, "torch"),
}
"""(setting, value) -> the reason; asked before the setting's own choices."""
