"""The training loop."""

from dataclasses import dataclass

from host.setting import setting, setting_is


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long to train, and on what loss."""

    max_train_steps: int = setting(2000, help="Length in optimizer steps.", minimum=1)
    max_train_epochs: int | None = setting(
        None, help="Length in epochs; takes the place of max_train_steps.", minimum=1
    )
    gradient_accumulation_steps: int = setting(1, help="Batches per optimizer step.", minimum=1)
    seed: int = setting(42, help="Seed of everything random.", minimum=0)
    loss_type: str = setting(
        "l2", help="l2 (mean squared error), huber or smooth_l1.", choices=("l2", "huber", "smooth_l1")
    )
    huber_c: float = setting(
        0.1,
        help="Where huber turns from square to linear.",
        above=0.0,
        used_when=setting_is("loss_type", "huber", "smooth_l1"),
    )
