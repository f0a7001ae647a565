"""A whole architecture in under a hundred lines: two residual linears on latent positions."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from host.architecture import API_VERSION, AdapterLayout, Architecture, Part, TensorSpec, Variant, setting

ROLES = {"head.weight": "transformer", "mix.weight": "autoencoder", "letters.weight": "toy_text"}
VARIANT = Variant(
    name="toy",
    conditioning={"words": TensorSpec(source="caption", shape=(8,), dtype=torch.float32, cache_name="w_vec")},
    takes_guidance=False,
    training_shift=lambda tokens: 1.0,
    sampling_sigmas=lambda tokens, steps: torch.linspace(1, 0, steps + 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySettings:
    text_encoder: Path | None = setting(None, help="The letters' file.", role="toy_text")


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4 + 1 + 8, 16)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.SiLU()) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, noisy, sigma, words):
        x = noisy.permute(0, 2, 3, 1)
        known = torch.cat([sigma.view(-1, 1), words], dim=1).view(-1, 1, 1, 9).expand(*x.shape[:3], 9)
        x = self.embed(torch.cat([x, known], dim=-1).to(self.embed.weight.dtype))
        x = x + self.layers[0](x)
        return self.head(x + self.layers[1](x)).permute(0, 3, 1, 2)


class ToyAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 4, bias=False)

    def encode(self, pixels):
        return self.mix(nn.functional.avg_pool2d(pixels, 8).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def decode(self, latents):
        small = torch.einsum("bchw,cd->bdhw", latents, torch.linalg.pinv(self.mix.weight).T)
        return nn.functional.interpolate(small, scale_factor=8)


class ToyText(nn.Module):
    caption_overflow = staticmethod(lambda captions: [])

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(256, 8)

    def encode(self, captions):
        letters = [torch.tensor([*caption.encode(), 0]) for caption in captions]
        return {"words": torch.stack([self.letters(row).mean(0) for row in letters])}


def identify(header):
    role = next((role for key, role in ROLES.items() if key in header.tensors), None)
    more = {"variant": VARIANT, "blocks": ("layers.0", "layers.1")} if role == "transformer" else {}
    return Part(role=role, description=f"a toy {role}", precision="fp32", **more) if role else None


def load(kind, path, *, device, dtype=None, place=None, **_):
    module, keep = kind(), place or (lambda name, tensor: tensor.to(device, dtype))
    module.load_state_dict({name: keep(name, t) for name, t in load_file(path).items()}, assign=True)
    return module.requires_grad_(False)


def tiny(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"dit": Toy, "vae": ToyAutoencoder, "text_encoder": ToyText}
    for name, kind in names.items():
        save_file(kind().state_dict(), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in names}


SPEC = Architecture(
    code="toy", full_name="toy", api_version=API_VERSION, bucket_step=16, tokens_per_latent=1.0,
    latent_channels=4, pixels_per_latent=8, settings=ToySettings, identify=identify, default_variant=VARIANT,
    check_files=lambda paths, parts: (), load_transformer=partial(load, Toy),
    load_autoencoder=partial(load, ToyAutoencoder),
    load_text_encoders=lambda paths, **options: load(ToyText, paths["text_encoder"], **options),
    call_dit=lambda transformer, noisy_latents, *, sigma, conditioning, guidance: transformer(
        noisy_latents, sigma, conditioning["words"]),
    blocks=lambda transformer: list(transformer.get_submodule("layers").children()), tiny=tiny,
    adapter_layout=AdapterLayout(presets={"layers": (r"layers\.\d+\.0",)}, kohya_prefix="lora_unet_"),
)  # fmt: skip
