"""Steps of diffusers + peft on the transformer that make_model.py wrote, for comparison with ours.

As diffusers' own LoRA scripts do: frozen weights in bfloat16, factors in float32, autocast, gradient
checkpointing, the same linears, rank, alpha and AdamW as ours. Its 8 bit is layerwise casting.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from peft import LoraConfig
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from host.architecture import read_header
from host.memory_account import resident_bytes
from musubi_flux_dev.file_layouts import diffusers_transformer
from musubi_flux_dev.packing import image_ids, text_ids
from musubi_flux_dev.transformer import params_from_header

TEXT_TOKENS = 512
LORA_ON = (
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v)|proj_mlp|proj_out)"
)
"""All token-wise linears: what our first preset covers, qkv in three."""
WARM_UP = 2
"""Steps that are not counted."""


def load(path: Path, *, device: torch.device) -> Any:
    """Return diffusers' transformer with the weights in ``path``, under diffusers' names, in bfloat16."""
    params = params_from_header(read_header(path), "")
    sizes: dict[str, Any] = dict(
        in_channels=params.in_channels,
        num_layers=params.depth,
        num_single_layers=params.depth_single_blocks,
        attention_head_dim=params.head_dim,
        num_attention_heads=params.num_heads,
        joint_attention_dim=params.context_in_dim,
        pooled_projection_dim=params.vec_in_dim,
        guidance_embeds=params.guidance_embed,
        axes_dims_rope=params.axes_dim,
    )
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**sizes)
    for key, weight in _renamed(path, transformer):
        owner, _, leaf = key.rpartition(".")
        kept = nn.Parameter(weight.to(device, torch.bfloat16), requires_grad=False)
        transformer.get_submodule(owner).register_parameter(leaf, kept)
    return transformer


def _renamed(path: Path, transformer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    layout = diffusers_transformer(())
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - this is no dict
            whole = file.get_tensor(name)
            if name in layout.halves_swapped:
                whole = torch.cat(whole.chunk(2)[::-1])
            keys = layout.keys_of(name)
            rows = [transformer.get_parameter(key).shape[0] for key in keys]
            yield from zip(keys, whole.split(rows), strict=True)


def attach(transformer: Any, *, rank: int, eight_bit: bool) -> list[nn.Parameter]:
    """Put peft's LoRA on ``transformer``, ready to train; return what is trained."""
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_ON))
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    if eight_bit:
        transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16, skip_modules_pattern=("lora_",)
        )
    transformer.enable_gradient_checkpointing()
    return trained


def step(transformer: Any, optimizer: torch.optim.Optimizer, *, side: int, device: torch.device) -> float:
    """Do one step at ``side`` pixels, batch 1, on random numbers; return the loss."""
    tokens = side // 16
    target, text = torch.randn(1, tokens**2, 64), torch.randn(1, TEXT_TOKENS, 4096, dtype=torch.bfloat16)
    with torch.autocast(device.type, torch.bfloat16):
        (velocity,) = transformer(
            hidden_states=torch.randn(1, tokens**2, 64).to(device),
            encoder_hidden_states=text.to(device),
            pooled_projections=torch.randn(1, 768).to(device),
            timestep=torch.full((1,), 0.5, device=device),
            img_ids=image_ids(height=tokens, width=tokens, batch=1, device=device)[0],
            txt_ids=text_ids(length=TEXT_TOKENS, batch=1, device=device)[0],
            guidance=torch.ones(1, device=device),
            return_dict=False,
        )
    loss = functional.mse_loss(velocity.float(), target.to(device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load, train, and return seconds a step (median), the peak in bytes, and the losses."""
    device = torch.device(options.device)
    transformer = load(options.dit, device=device)
    trained = attach(transformer, rank=options.rank, eight_bit=options.fp8)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, losses = [], []
    for _ in range(options.steps):
        began = time.perf_counter()
        losses.append(step(transformer, optimizer, side=options.side, device=device))
        seconds.append(time.perf_counter() - began)
    on_gpu = device.type == "cuda"
    return {
        "seconds": round(statistics.median(seconds[WARM_UP:] or seconds), 3),
        "peak": torch.cuda.max_memory_allocated(device) if on_gpu else resident_bytes(),
        "trained": sum(parameter.numel() for parameter in trained),
        "losses": losses,
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dit", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--fp8", action="store_true")
    print(json.dumps(measure(parser.parse_args())))  # noqa: T201


if __name__ == "__main__":
    main()
