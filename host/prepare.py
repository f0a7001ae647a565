"""From files to a model ready to train: load, freeze, attach the adapter, checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from host.setting import setting, setting_given


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, on which device, in which precision."""

    architecture: str = setting("fd", help="Code of the architecture, or package:SPEC for one on the path.")
    dit: Path | None = setting(None, help="The transformer's file.", role="transformer", in_metadata=False)
    vae: Path | None = setting(None, help="The autoencoder's file.", role="autoencoder", in_metadata=False)
    tiny_directory: Path | None = setting(
        None,
        help="Before anything else, let the plugin write its seeded tiny model and pictures here.",
        in_metadata=False,
    )
    device: str = setting(
        "auto", help="cuda, cuda:1, cpu; auto takes the GPU when there is one.", in_metadata=False
    )
    mixed_precision: str = setting(
        "bf16", help="bf16: the frozen model in bfloat16. no: everything in float32.", choices=("bf16", "no")
    )
    attn_mode: str = setting(
        "torch",
        help="Attention: torch (SDPA), flash, xformers (when installed).",
        choices=("torch", "flash", "xformers"),
    )
    split_attn: bool = setting(False, help="Attention sample by sample: less memory, same result.")
    gradient_checkpointing: bool = setting(True, help="Recompute blocks in the backward pass: less memory.")
    disable_mmap: bool = setting(
        True, help="Read model files plainly instead of mapping them into memory.", in_metadata=False
    )
    blocks_to_swap: int = setting(0, help="Blocks whose weights wait in host memory.", minimum=0)
    fp8_base: bool = setting(False, help="Keep the frozen transformer in 8 bit.")
    fp8_scaled: bool = setting(
        False, help="8 bit with a scale for every 64 weights.", used_when=setting_given("fp8_base")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Which adapter, on which linears."""

    network_dim: int = setting(16, help="Rank of the LoRA.", minimum=1)
    network_alpha: float | None = setting(
        None,
        help="Update is scaled by network_alpha / network_dim; equal to network_dim unless given.",
        above=0.0,
    )
    network_dropout: float = setting(
        0.0, help="Share of the rank's activations dropped in training.", minimum=0.0, maximum=0.99
    )
    network_preset: str | None = setting(
        None,
        help="Named set of linears of the architecture; its first one (all token-wise linears) unless given.",
    )
    network_args: list[str] = setting(
        [],
        help="include_patterns=['regex', ...] adds linears to the preset, exclude_patterns=[...] removes them "
        "(full match on module paths; included wins).",
    )
    network_weights: Path | None = setting(
        None, help="Continue from this LoRA; its rank and alpha rule.", in_metadata=False
    )
