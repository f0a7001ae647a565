"""Whether the frozen weights can be kept as the settings say: told before one of them is read."""

import torch

from host.config import Config
from host.errors import Problem
from host.model_files import ModelFiles
from host.prepare import ModelSettings, eight_bit_form
from host.quantization import FP8, INT8, Form, quantize, widened


def check_frozen(config: Config, files: ModelFiles) -> list[Problem]:
    """Return what cannot be kept as the settings say, told from the transformer's header."""
    part, model = files.parts.get("dit"), config.settings.model
    if part is None or part.role != "transformer" or part.refusal is not None:
        return []
    count, wanted = len(part.blocks), model.blocks_to_swap
    form = eight_bit_form(model)
    if not count and (wanted or form):
        what = f"8 bit and blocks_to_swap cannot act: {config.architecture.full_name} does not say which "
        return [
            Problem(
                what=f"{what}blocks it has.",
                remedy="Remove fp8_base, int8_base and blocks_to_swap; or fill in Part.blocks.",
                setting=eight_bit_setting(model) if form else "blocks_to_swap",
            )
        ]
    if wanted <= count:
        return []
    return [
        Problem(
            what=f"blocks_to_swap = {wanted}: this transformer has {count} blocks.",
            remedy=f"A number from 0 to {count} will do; {count} is all of them.\n"
            f"Write: blocks_to_swap = {count}",
            setting="blocks_to_swap",
        )
    ]


def check_quantization(model: ModelSettings, device: torch.device) -> list[Problem]:
    """Return the refusal of a form of 8 bit that ``device`` cannot keep or widen."""
    form = eight_bit_form(model)
    if form is None or can_keep(form, device):
        return []
    named = eight_bit_setting(model)
    other = "int8_base" if form.code == FP8.code else "fp8_base"
    instead = [f"{other} = true"] if can_keep(INT8 if other == "int8_base" else FP8, device) else []
    remedy = "  or  ".join([*instead, f"{named} = false"])
    return [
        Problem(
            what=f"{named} = true: {device} cannot keep weights as {form.code}.",
            remedy=f"Write in its place:  {remedy}",
            setting=named,
        )
    ]


def can_keep(form: Form, device: torch.device) -> bool:
    """Whether ``device`` has the type of ``form`` and casts from it and to it; a few numbers are tried.

    No more is asked of it: products are computed in the wide type. So float8 needs no card of a certain
    age, as its matrix products would.
    """
    try:
        parts = quantize(torch.ones(2, 64, device=device), form).parts
        return bool(widened(parts, dtype=torch.bfloat16).sum() == 128)
    except (RuntimeError, TypeError):
        return False


def eight_bit_setting(model: ModelSettings) -> str:
    """Return the setting that asks for 8 bit."""
    return "int8_base" if model.int8_base else "fp8_base"
