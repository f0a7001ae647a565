"""Validates when it is due, writes what it found, and keeps the best LoRA when asked to."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from host.eta import Estimate
from host.fit import StepReport
from host.logs import JsonLines, Screen, Tracker
from host.shortage import at_work_on
from host.validation import ValidationStopped, Validator, first_text
from host.validation_plan import ValidationPlan
from host.validation_record import Round, line_of, make_round
from host.verdict import FEWEST, base_warnings, caption_warning, curve_of, difference, verdict


@dataclass(slots=True, kw_only=True)
class ValidationObserver:
    """Does the rounds of a plan; every process has one and takes part, main alone speaks and writes."""

    validator: Validator
    plan: ValidationPlan
    screen: Screen
    log: JsonLines | None
    trackers: Sequence[Tracker]
    estimate: Estimate
    keep: Callable[[int, int], object] | None
    """(step, epoch): saves the LoRA as the best; None: none is kept."""
    kept_step: int | None = None
    """That of the LoRA that is kept."""
    rounds: list[Round] = field(default_factory=list)
    """Those of earlier starts of this run, then those of this one."""

    def begin(self, first_step: int, *, epoch: int) -> None:
        """Measure the base model, and the step that is resumed from, unless an earlier start did."""
        if not self.plan.items:
            return
        with suppress(ValidationStopped):
            if not first_step:
                self._base()
            elif self.plan.is_due(first_step) and self._is_missing(first_step):
                self._round(first_step, epoch)

    def __call__(self, report: StepReport) -> None:
        """Validate when this step asks for it; a round that is given up is made when the run is resumed."""
        if self.plan.is_due(report.step):
            with suppress(ValidationStopped):
                self._round(report.step, report.epoch)

    def end(self) -> None:
        """Say what the curve says."""
        for line in verdict(self.rounds):
            self.screen.say("validate", line)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def _is_missing(self, step: int) -> bool:
        """Whether main, which alone has read what was measured before, lacks a step."""
        processes = self.validator.processes
        return processes.any(processes.is_main and all(one.step != step for one in self.rounds))

    def _base(self) -> None:
        losses = self._measure(strength=0.0)
        warnings = base_warnings(losses, self.validator.blind_losses(), self.validator.sigmas())
        one = self._as_round(0, losses)
        if self._compares_captions():
            others = self._measure(strength=0.0, others_captions=True)
            warnings += caption_warning(one, self._as_round(0, others))
        self._note(one)
        for line in warnings:
            self.screen.say("warning", line)

    def _round(self, step: int, epoch: int) -> None:
        one = self._as_round(step, self._measure())
        # First the file, then the line: what is killed in between is measured again.
        if self.keep is not None and one.held_out and self._is_best(one):
            self.keep(step, epoch)
            self.kept_step = step
        self._note(one)

    def _measure(
        self, *, strength: float = 1.0, others_captions: bool = False
    ) -> Float[Tensor, "pictures levels"]:
        began = time.perf_counter()
        with at_work_on("validation"), self.screen.alive("validating"):
            losses = self.validator.losses(strength=strength, others_captions=others_captions)
        self.estimate.event_took(time.perf_counter() - began, kind="validation")
        return losses

    def _as_round(self, step: int, losses: Float[Tensor, "pictures levels"]) -> Round:
        return make_round(step, items=self.validator.items, losses=losses, sigmas=self.validator.sigmas())

    def _compares_captions(self) -> bool:
        items = self.validator.items
        return len(items) >= FEWEST and len({item.captions[first_text(item)].text for item in items}) > 1

    def _is_best(self, one: Round) -> bool:
        kept = next((other for other in curve_of([*self.rounds, one]) if other.step == self.kept_step), None)
        return kept is None or difference(one, kept).mean < 0

    def _note(self, one: Round) -> None:
        self.rounds.append(one)
        if self.log is not None:
            self.log.write(**line_of(one))
        levels = {
            f"loss/validation/sigma_{sigma:.2f}": loss
            for sigma, loss in zip(one.sigmas, one.by_sigma, strict=True)
        }
        for tracker in self.trackers:
            tracker.log({"loss/validation/average": one.loss, **levels}, step=one.step)
        self.screen.say("validate", self._sentence(one))

    def _sentence(self, one: Round) -> str:
        by_sigma = ", ".join(
            f"{loss:.4f} at {sigma:.2f}" for sigma, loss in zip(one.sigmas, one.by_sigma, strict=True)
        )
        base = next((other for other in curve_of(self.rounds) if other.step == 0), one)
        change = f", {one.loss - base.loss:+.4f} from the base model" if base is not one else ""
        kind = "held-out" if one.held_out else "training"
        return f"step {one.step}: {kind} loss {one.loss:.4f}{change} (sigma: {by_sigma})"
