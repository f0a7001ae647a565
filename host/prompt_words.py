"""The words of prompt files, kohya's: flags of a line, keys of TOML and JSON, and those that do not apply."""

from collections.abc import Mapping

FLAGS: Mapping[str, str] = {
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "g": "guidance",
    "l": "cfg_scale",
    "n": "negative_prompt",
    "fs": "flow_shift",
}
"""Flag -> field of ``SamplePrompt``."""

SAME_NAMES = ("prompt", "width", "height", "seed", "cfg_scale", "negative_prompt", "flow_shift")
KEYS: Mapping[str, str] = {name: name for name in SAME_NAMES} | {
    "sample_steps": "steps",
    "guidance_scale": "guidance",
    "scale": "cfg_scale",
    "discrete_flow_shift": "flow_shift",
}
"""Key -> field of ``SamplePrompt``."""

STRENGTHS = "the setting sample_strengths says how strong the LoRA is drawn"
_FOREIGN_REASONS: Mapping[tuple[str, ...], str] = {
    ("--f", "frame_count"): "it counts the frames of a video",
    ("--i", "image_path", "--ei", "end_image_path"): "it names a picture that a video begins or ends with",
    ("--ci", "control_image_path"): "it names a control image, which FLUX.1 dev does not take",
    ("--cn", "control_video_path", "controlnet_image"): "it is for control videos and ControlNets",
    ("--of", "one_frame"): "it is for FramePack",
    ("--ss", "sample_sampler"): "there is one sampler, Euler",
    ("--ctr", "--rcfg"): "it is for other models",
    ("--am", "--strength", "strength", "network_multiplier", "lora_multiplier"): STRENGTHS,
}
FOREIGN: Mapping[str, str] = {word: why for words, why in _FOREIGN_REASONS.items() for word in words}
"""Words of kohya's prompt files that do not apply -> why."""
