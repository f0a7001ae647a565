"""Optimizers by the field's names, or any class by its dotted path."""

from dataclasses import dataclass

from host.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Which optimizer, and how large its steps are."""

    optimizer_type: str = setting(
        "auto",
        help="AdamW, AdamW8bit, Adafactor, or a dotted path such as prodigyopt.Prodigy. "
        "auto: AdamW8bit on CUDA, else AdamW.",
    )
    optimizer_args: list[str] = setting(
        [], help='Arguments of the optimizer as "name=value": ["weight_decay=0.01", "betas=(0.9,0.99)"].'
    )
    learning_rate: float = setting(1e-4, help="Step size after warm-up.", above=0.0)
    max_grad_norm: float = setting(1.0, help="Clip the gradient's norm to this; 0 is off.", minimum=0.0)
