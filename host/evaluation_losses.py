"""What held-out pictures say of LoRA files, where nobody can judge what is drawn with them.

A run writes its rounds of validation beside its LoRAs (``host.validation_record``). They measure a file at
strength 1, as it was trained, and at no other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from host.evaluation_choice import Choice, why
from host.evaluation_pictures import Column, LoraFile
from host.headers import read_header
from host.validation_record import Round, read_rounds, validation_path
from host.verdict import FEWEST, difference

ON_THE_WAY = re.compile(r"(?P<name>.+?)(?:(?:-best)?-step(?P<step>\d{8})|-\d{6})")
"""How files are called that a run saves before its end."""
SECOND = "-diffusers"
SAME_BASE = 1e-3
"""Relative difference of the base's losses up to which two runs measured the same thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The round in which a file was measured, and the base in the same run."""

    then: Round
    base: Round


def held_out_of(lora: LoraFile) -> HeldOut | None:
    """Return what the file's run measured at its step; None where there is no such round."""
    stem = lora.path.stem.removesuffix(SECOND)
    found = ON_THE_WAY.fullmatch(stem)
    rounds = read_rounds(validation_path(lora.path.parent, found["name"] if found else stem))
    said = read_header(lora.path).metadata.get("ss_steps", "")
    told = found["step"] if found and found["step"] else said
    step = int(told) if told.isdecimal() else None
    by_step = {one.step: one for one in rounds if one.held_out}
    if step not in by_step or 0 not in by_step or not by_step[step].continues(by_step[0]):
        return None
    return HeldOut(then=by_step[step], base=by_step[0])


def choose_by_losses(columns: Sequence[Column], drift: Sequence[float] | None) -> Choice:
    """Return what held-out losses recommend; ``drift`` is that of each column where it was measured."""
    at_one = {column.lora: number for number, column in enumerate(columns) if column.strength == 1.0}
    loras = list(dict.fromkeys(column.lora for column in columns if column.lora is not None))
    measured = {lora: found for lora in loras if (found := held_out_of(lora)) is not None}
    if reason := _unknown(loras, measured, strength_one=bool(at_one)):
        return Choice(column=None, says=f"recommended: nothing; {reason}")
    best = min(loras, key=lambda lora: _loss(measured[lora].then, measured))
    tied = [lora for lora in loras if not difference(measured[lora].then, measured[best].then).is_sure]
    gains = {lora: difference(measured[lora].base, measured[lora].then) for lora in loras}
    better = [lora for lora in tied if gains[lora].is_sure]
    as_good = tuple(at_one[lora] for lora in tied)
    if not better:
        says = (
            f"recommended: nothing; the held-out loss of {best.label} is {gains[best]} below the base's over "
        )
        says += (
            f"{gains[best].pictures} pictures, which may be chance; strengths other than 1 were not measured"
        )
        return Choice(column=None, as_good=as_good, says=says)
    cost = {
        lora: _loss(measured[lora].then, measured) if drift is None else drift[at_one[lora]]
        for lora in better
    }
    chosen = min(better, key=cost.__getitem__)
    says = (
        f"recommended: {columns[at_one[chosen]].label}, by the held-out loss: {gains[chosen]} below the base "
    )
    says += f"over {gains[chosen].pictures} pictures"
    if len(loras) > 1:
        says += f"; {len(tied)} of {len(loras)} files cannot be told apart from the best ({best.label})"
    if len(tied) > 1:
        says += f"; {why(by_drift=drift is not None, surely=len(better), of=len(tied))}"
    return Choice(
        column=at_one[chosen],
        as_good=as_good,
        says=f"{says}. Strengths other than 1 were not measured, and the loss does not see what is drawn",
    )


def _unknown(loras: Sequence[LoraFile], measured: dict[LoraFile, HeldOut], *, strength_one: bool) -> str:
    """Return why the losses can choose nothing; empty where they can."""
    blind = "nothing here can see the concept"
    if not measured:
        return f"{blind}: there is no judge for these prompts, and no held-out loss beside the files"
    if absent := [lora.label for lora in loras if lora not in measured]:
        return f"{blind}, and there is no held-out loss of {', '.join(absent)} at its step"
    if not strength_one:
        return f"{blind}, and held-out losses are of strength 1, which is not among the strengths"
    shared = set.intersection(*(set(found.then.by_picture) for found in measured.values()))
    if len(shared) < FEWEST:
        return f"{blind}, and {len(shared)} held-out pictures are too few, {FEWEST} are the least"
    bases = [_loss(found.base, measured) for found in measured.values()]
    if max(bases) - min(bases) > SAME_BASE * min(bases):
        return f"{blind}, and the held-out losses of these files were measured in different ways"
    return ""


def _loss(one: Round, measured: dict[LoraFile, HeldOut]) -> float:
    """Return the loss on the pictures that all files were measured on."""
    shared = set.intersection(*(set(found.then.by_picture) for found in measured.values()))
    return fmean(one.by_picture[name] for name in sorted(shared))
