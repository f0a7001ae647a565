"""CLIP-L and T5-XXL: captions to what the transformer is conditioned on.

Axes: b captions, n tokens, d channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from host.architecture import Problem, ProblemsFound, Variant
from musubi_flux_dev.text_encoder_files import EncoderPlan, fill_clip, fill_t5, plan_clip, plan_t5
from musubi_flux_dev.tokenizer_files import CaptionTokenizer, load_clip_tokenizer, load_t5_tokenizer
from musubi_flux_dev.tokenizers import find_clip_tokenizer, find_t5_tokenizer

T5_LENGTH = 512
"""Tokens; the dev family was trained with 512, schnell with 256."""

T5_UNUSED_WORDS = 128
"""T5 has 32,128 embeddings for the 32,000 words of spiece.model or the 32,100 of tokenizer.json."""

SHOWN_CHARACTERS = 80


@dataclass(slots=True, kw_only=True)
class FluxTextEncoders:
    """CLIP-L and T5 with their tokenizers."""

    clip: Any
    """A ``transformers.CLIPTextModel``; that package is not imported before it is needed."""
    t5: Any
    """A ``transformers.T5EncoderModel``."""
    clip_tokenizer: CaptionTokenizer
    t5_tokenizer: CaptionTokenizer
    t5_length: int = T5_LENGTH
    """In tokens."""

    @property
    def clip_length(self) -> int:
        """Length of CLIP's window in tokens: 77."""
        return self.clip.config.max_position_embeddings

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return ``t5_hidden`` (b, 512, 4096) and ``clip_pooled`` (b, 768) of ``captions``.

        Neither encoder gets an attention mask, so T5 also reads its pads and hands them on: that is
        what the transformer was trained with (black-forest-labs/flux: src/flux/modules/conditioner.py).
        """
        if isinstance(captions, str):
            raise TypeError("captions is one text; it must be a list of them")
        clip_ids = self.clip_tokenizer.ids(captions, length=self.clip_length)
        t5_ids = self.t5_tokenizer.ids(captions, length=self.t5_length)
        return {"t5_hidden": self._t5_hidden(t5_ids), "clip_pooled": self._clip_pooled(clip_ids)}

    def caption_overflow(self, captions: Sequence[str]) -> list[str]:
        """Return one note for every caption and encoder where the caption does not fit."""
        windows = (
            ("CLIP-L", self.clip_tokenizer, self.clip_length),
            ("T5", self.t5_tokenizer, self.t5_length),
        )
        return [
            f'{encoder} reads {length} of {count} tokens of "{_start(caption)}"; '
            f'it does not see "{_start(tokenizer.cut_text(caption, length=length))}"'
            for caption in captions
            for encoder, tokenizer, length in windows
            if (count := tokenizer.token_count(caption)) > length
        ]

    def _clip_pooled(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        return self.clip(ids.to(self.clip.device)).pooler_output

    def _t5_hidden(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.t5(ids.to(self.t5.device)).last_hidden_state


def load_text_encoders(
    paths: Mapping[str, Path],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = True,
    variant: Variant | None = None,
    eight_bit: bool = False,
) -> FluxTextEncoders:
    """Return both encoders, frozen and in evaluation mode.

    ``dtype=None`` keeps each file's precision, with two exceptions: 8-bit weights are computed with in
    bfloat16, and T5 never runs in float16, where its feed-forward overflows: it gets bfloat16 instead.

    Args:
        paths: ``text_encoder`` (CLIP-L's file) and ``text_encoder2`` (T5's); ``tokenizer`` and
            ``tokenizer2`` where they are not to be looked for.
        device: Where both encoders live.
        dtype: Of the weights of both.
        disable_mmap: Read the files plainly instead of mapping them into memory.
        variant: Of the transformer that is encoded for; it decides how many tokens T5 gives.
        eight_bit: Keep T5's linears in 8 bit, computed with in T5's type; see ``EightBitLinear``.
    """
    clip_path, t5_path = paths["text_encoder"], paths["text_encoder2"]
    clip_plan, t5_plan, clip_tokenizer, t5_tokenizer = _all_of(
        lambda: plan_clip(clip_path, dtype=dtype),
        lambda: plan_t5(t5_path, dtype=dtype),
        lambda: load_clip_tokenizer(find_clip_tokenizer(encoder=clip_path, given=paths.get("tokenizer"))),
        lambda: load_t5_tokenizer(find_t5_tokenizer(encoder=t5_path, given=paths.get("tokenizer2"))),
    )
    _all_of(
        lambda: _require_fitting_tokenizer(clip_plan, clip_tokenizer, most_unused=0),
        lambda: _require_fitting_tokenizer(t5_plan, t5_tokenizer, most_unused=T5_UNUSED_WORDS),
    )
    return FluxTextEncoders(
        clip=fill_clip(clip_plan, device=device, disable_mmap=disable_mmap),
        t5=fill_t5(t5_plan, device=device, disable_mmap=disable_mmap, eight_bit=eight_bit),
        clip_tokenizer=clip_tokenizer,
        t5_tokenizer=t5_tokenizer,
        t5_length=T5_LENGTH if variant is None else variant.conditioning["t5_hidden"].shape[0] or T5_LENGTH,
    )


def _all_of(*steps: Callable[[], Any]) -> list[Any]:
    """Return every step's result, or raise the problems of all of them together."""
    results: list[Any] = []
    problems: list[Problem] = []
    for step in steps:
        try:
            results.append(step())
        except ProblemsFound as found:
            problems.extend(found.problems)
    if problems:
        raise ProblemsFound(problems)
    return results


def _require_fitting_tokenizer(plan: EncoderPlan, tokenizer: CaptionTokenizer, *, most_unused: int) -> None:
    """Refuse a tokenizer of another model: its ids would pick the wrong words without a complaint."""
    words = plan.model.config.vocab_size
    if not 0 <= words - tokenizer.vocabulary_size <= most_unused:
        raise ProblemsFound(
            [
                Problem(
                    code="E20",
                    what=f"{plan.path} knows {words:,} tokens, but its tokenizer "
                    f"has {tokenizer.vocabulary_size:,}.",
                    remedy="Name the tokenizer that came with this encoder (tokenizer for CLIP-L, "
                    "tokenizer2 for T5).",
                )
            ]
        )


def _start(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
