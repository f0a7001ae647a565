"""Keys of other trainers' dataset files: other names of ours, accepted, or refused with the reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

ALIASES: Mapping[str, str] = {
    "image_dir": "image_directory",
    "class_tokens": "missing_caption",
    "conditioning_data_dir": "mask_directory",
    "in_json": "metadata_file",
}
"""sd-scripts' key -> ours."""

BUCKET_WORDS = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")
"""sd-scripts' keys that are accepted where the buckets are such as they ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """Why one key of other trainers is of no use here, and which of its values ask for nothing."""

    why: str
    remedy: str = "Remove it."
    accepts: Callable[[object], bool] = lambda _: False
    """Whether a value says what is done anyway."""


def _is_off(value: object) -> bool:
    return value is False or value in ({}, [])


def _is_zero(value: object) -> bool:
    return value == 0 and not isinstance(value, bool)


def _is_one(value: object) -> bool:
    return value == 1 and not isinstance(value, bool)


def _is_any(value: object) -> bool:
    return True


def _each(names: str, key: ForeignKey) -> dict[str, ForeignKey]:
    return dict.fromkeys(names.split(), key)


_VIDEO = ForeignKey(why="is for video models; this program trains on pictures: not for this model")
_CONTROL = ForeignKey(
    why="is for models that are shown a control picture, which is not supported yet", accepts=_is_off
)
_FRAMEPACK = ForeignKey(why="is for FramePack: not for this model", accepts=_is_off)
_LAYERS = ForeignKey(
    why="is for models with several pictures per item, such as Qwen-Image-Layered: not for this model",
    accepts=_is_off,
)
_AUGMENTATION = ForeignKey(
    why="changes the pixels at every step, which cached latents cannot follow", accepts=_is_off
)
_WARM_UP = ForeignKey(
    why="lengthens the captions step by step, which cached captions cannot follow", accepts=_is_zero
)
_ACTS_WITH_ANOTHER = ForeignKey(why="acts only together with another key", accepts=_is_any)

FOREIGN_KEYS: Mapping[str, ForeignKey] = {
    **_each("video_directory video_jsonl_file target_frames frame_extraction", _VIDEO),
    **_each("frame_stride frame_sample max_frames source_fps", _VIDEO),
    **_each("control_directory no_resize_control control_resolution", _CONTROL),
    **_each("flux_kontext_no_resize_control qwen_image_edit_no_resize_control", _CONTROL),
    "qwen_image_edit_control_resolution": _CONTROL,
    **_each("fp_latent_window_size fp_1f_clean_indices fp_1f_target_index fp_1f_no_post", _FRAMEPACK),
    "multiple_target": _LAYERS,
    **_each("color_aug random_crop face_crop_aug_range", _AUGMENTATION),
    "token_warmup_step": _WARM_UP,
    "token_warmup_min": _ACTS_WITH_ANOTHER,
    "network_multiplier": ForeignKey(
        why="weighs the LoRA differently for each dataset, while one strength holds for all", accepts=_is_one
    ),
    "resize_interpolation": ForeignKey(
        why="changes how pictures are scaled, which is as in sd-scripts without it:"
        " reduced by area, enlarged by LANCZOS"
    ),
    "custom_attributes": ForeignKey(
        why="switches on methods such as diff_output_preservation, which are not built", accepts=_is_off
    ),
    "cache_info": ForeignKey(why="keeps the captions in the picture folder", accepts=_is_any),
}
"""Keys of other trainers' dataset files that are none of ours."""


def accepted_keys(table: Mapping[str, object]) -> list[str]:
    """Return the foreign keys of one table whose value asks for nothing that is not done anyway."""
    return [key for key, value in table.items() if key in FOREIGN_KEYS and FOREIGN_KEYS[key].accepts(value)]
