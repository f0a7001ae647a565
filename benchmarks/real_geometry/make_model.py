"""Writes all that a run at FLUX.1 dev's real geometry needs: random weights, pictures, captions.

The transformer has every tensor of flux1-dev.safetensors in name, shape and type (23.8 GB). The text
encoders have the published widths, so that what they make is (512, 4096) and (768,), and little depth. The
autoencoder is that of the tiny instance: it makes 16 x 32 x 32 of 256 x 256 pixels as the published one does.
"""

import argparse
import json
import math
import re
import struct
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from host.registry import find_architecture
from musubi_flux_dev.tiny_weights import MODULATION_GAIN, Drawn, Layout, draw
from musubi_flux_dev.transformer import Flux, FluxParams

CLIP_WIDTH, T5_WIDTH = 768, 4096
T5_LINEARS = {"q": (64, T5_WIDTH), "k": (64, T5_WIDTH), "v": (64, T5_WIDTH), "o": (T5_WIDTH, 64)}
"""Four heads of 16, as in the tiny instance."""
EMBEDDINGS = {
    "shared.weight": 1.0,
    "encoder.embed_tokens.weight": 1.0,
    "token_embedding.weight": 1.0,
    "position_embedding.weight": 0.3,
    "relative_attention_bias.weight": 0.5,
}
"""End of the name of what is no linear, though it has two axes -> standard deviation."""


def make(folder: Path, params: FluxParams, *, pictures: int) -> dict[str, Path]:
    """Write everything below ``folder``; return setting name -> path, ``image_directory`` among them."""
    paths = find_architecture("fd").tiny(folder)
    for path in sorted(paths["image_directory"].iterdir())[2 * pictures :]:
        path.unlink()
    paths["dit"] = folder / "flux1-random.safetensors"
    widen_encoder(paths["text_encoder"], {64: CLIP_WIDTH, 256: 4 * CLIP_WIDTH})
    widen_encoder(paths["text_encoder2"], {64: T5_WIDTH})
    write_transformer(paths["dit"], params)
    return paths


def write_transformer(path: Path, params: FluxParams) -> None:
    """Write a bfloat16 transformer, tensor by tensor: no more than one is in memory."""
    layout = transformer_layout(params)
    header, end = {}, 0
    for name, drawn in layout.items():
        start, end = end, end + math.prod(drawn.shape) * torch.bfloat16.itemsize
        header[name] = {"dtype": "BF16", "shape": drawn.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, drawn in layout.items():
            tensor = draw({name: drawn}, dtype=torch.bfloat16)[name]
            file.write(tensor.view(torch.uint8).numpy().data)


def transformer_layout(params: FluxParams) -> Layout:
    """Return the published keys and their shapes, with sizes of numbers that keep activations near 1."""
    with torch.device("meta"):
        transformer = Flux(params)
    return {name: drawn_like(name, tuple(one.shape)) for name, one in transformer.named_parameters()}


def drawn_like(name: str, shape: tuple[int, ...]) -> Drawn:
    """Return how large the numbers of a parameter are: by 1 / sqrt(fan in), norms near 1, biases near 0."""
    if len(shape) == 2:
        ends = [std for end, std in EMBEDDINGS.items() if name.endswith(end)]
        gain = MODULATION_GAIN if re.search(r"_mod\.|odulation\.", name) else 1.0
        return Drawn(shape=shape, std=ends[0] if ends else gain / math.sqrt(shape[1]))
    return Drawn(shape=shape, std=0.02) if name.endswith(".bias") else Drawn(shape=shape, std=0.1, mean=1.0)


def widen_encoder(path: Path, widths: dict[int, int]) -> None:
    """Write the encoder in ``path`` again, with every axis of a length in ``widths`` at its new length."""
    from safetensors.torch import load_file

    save_file(
        {name: _widened(name, tensor, widths) for name, tensor in load_file(path).items()},
        path,
        metadata={"format": "pt"},
    )


def _widened(name: str, tensor: Tensor, widths: dict[int, int]) -> Tensor:
    narrow = T5_LINEARS.get(name.split(".")[-2]) if "SelfAttention" in name else None
    shape = narrow or tuple(widths.get(length, length) for length in tensor.shape)
    return draw({name: drawn_like(name, shape)}, dtype=tensor.dtype)[name]


def main() -> None:
    """Write everything below the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden_size", type=int, default=3072, help="a multiple of 128")
    parser.add_argument("--double_blocks", type=int, default=19)
    parser.add_argument("--single_blocks", type=int, default=38)
    parser.add_argument("--pictures", type=int, default=12, help="at most 12, each with a caption")
    options = parser.parse_args()
    began = time.perf_counter()
    params = FluxParams(
        hidden_size=options.hidden_size,
        num_heads=options.hidden_size // 128,
        depth=options.double_blocks,
        depth_single_blocks=options.single_blocks,
    )
    for name, path in make(options.folder, params, pictures=options.pictures).items():
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "folder"
        print(f"{name:16} {path} {size}")  # noqa: T201
    print(f"{time.perf_counter() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
