"""Optimizers by the field's names, or any class by its dotted path."""

import ast
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dataset.problems import Problem, ProblemsFound, name_some
from host.errors import did_you_mean
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


NAMES: Mapping[str, str] = {
    "adamw": "torch.optim.AdamW",
    "adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "adafactor": "transformers.optimization.Adafactor",
    "adam": "torch.optim.Adam",
    "nadam": "torch.optim.NAdam",
    "radam": "torch.optim.RAdam",
    "sgd": "torch.optim.SGD",
    "pagedadamw": "bitsandbytes.optim.PagedAdamW",
    "pagedadamw8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "pagedadamw32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "lion": "lion_pytorch.Lion",
    "lion8bit": "bitsandbytes.optim.Lion8bit",
    "pagedlion8bit": "bitsandbytes.optim.PagedLion8bit",
    "prodigy": "prodigyopt.Prodigy",
    "dadaptation": "dadaptation.experimental.DAdaptAdamPreprint",
    "dadaptadam": "dadaptation.DAdaptAdam",
    "dadaptlion": "dadaptation.DAdaptLion",
}
"""The short names of kohya's trainers, read in any case. Anything else is a dotted path."""

ADAPTIVE = ("prodigy", "dadapt")
"""How the class names begin that find their step size themselves; learning_rate only multiplies it."""
ADAPTIVE_RATES = (0.1, 2.0)

ELEMENTWISE = ("adam", "ademamix", "adafactor", "lion")
"""Parts of the class names whose updates have about the size of learning_rate in every element."""
HIGHEST_RATE = 0.1
HIGH_RATE = 2e-3

OWN_SETTINGS = {
    "lr": "Use the setting learning_rate.",
    "params": "The network settings choose what is trained.",
}
"""Arguments of every optimizer that do not belong in optimizer_args."""

ADAFACTOR_ARGUMENTS = {"relative_step": "False", "scale_parameter": "False", "warmup_init": "False"}

CONSTRUCTION_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""What the constructors of optimizers raise about a bad argument."""


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    settings: OptimizerSettings,
    *,
    device: torch.device | str,
) -> torch.optim.Optimizer:
    """Return the optimizer of ``parameters`` (or parameter groups); raises ``ProblemsFound``.

    The rate of every group starts at ``learning_rate``; the schedule is the caller's.
    """
    problems = check_optimizer(settings, device=device)
    if problems:
        raise ProblemsFound(problems)
    return _construct(_import_class(settings.optimizer_type, device=device), parameters, settings)


def check_optimizer(settings: OptimizerSettings, *, device: torch.device | str = "cpu") -> list[Problem]:
    """Return everything that is wrong with the optimizer; ``device`` decides what ``auto`` means."""
    arguments, problems = _read_arguments(settings.optimizer_args)
    problems += check_learning_rate(settings, device=device)
    try:
        optimizer_class = _import_class(settings.optimizer_type, device=device)
    except ProblemsFound as found:
        return [*found.problems, *problems]
    problems += _check_arguments(optimizer_class, arguments)
    problems += _check_relative_step(optimizer_class, arguments, written=settings.optimizer_args)
    return problems or _check_construction(optimizer_class, settings)


def optimizer_notes(settings: OptimizerSettings, *, device: torch.device | str = "cpu") -> list[str]:
    """Return what is allowed but seldom meant, one sentence each."""
    name = _class_name(settings.optimizer_type, device=device)
    if _is_elementwise(name) and HIGH_RATE < settings.learning_rate <= HIGHEST_RATE:
        return [f"learning_rate = {settings.learning_rate} is high for {name}. Usual: 0.0001 (written 1e-4)."]
    return []


def describe(settings: OptimizerSettings, *, device: torch.device | str) -> str:
    """Return class and given arguments as kohya's ``ss_optimizer`` has them.

    Such as ``torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.99))``; no parentheses when no
    argument is given.
    """
    optimizer_class = _import_class(settings.optimizer_type, device=device)
    arguments, _ = _read_arguments(settings.optimizer_args)
    inner = ",".join(f"{name}={value}" for name, value in arguments.items())
    path = f"{optimizer_class.__module__}.{optimizer_class.__name__}"
    return f"{path}({inner})" if inner else path


def _dotted_path(optimizer_type: str, *, device: torch.device | str) -> str:
    """The import path of a name; a name that is not in the table comes back as it is."""
    name = optimizer_type.lower()
    if name == "auto":
        name = "adamw8bit" if torch.device(device).type == "cuda" else "adamw"
    return NAMES.get(name, optimizer_type)


def _class_name(optimizer_type: str, *, device: torch.device | str) -> str:
    return _dotted_path(optimizer_type, device=device).rpartition(".")[2]


def _is_adaptive(class_name: str) -> bool:
    return class_name.lower().startswith(ADAPTIVE)


def _is_elementwise(class_name: str) -> bool:
    return not _is_adaptive(class_name) and any(part in class_name.lower() for part in ELEMENTWISE)


def _import_class(optimizer_type: str, *, device: torch.device | str) -> type[torch.optim.Optimizer]:
    """Return the class; raises ``ProblemsFound`` when there is none that this trainer can drive."""
    path = _dotted_path(optimizer_type, device=device)
    module_path, _, class_name = path.rpartition(".")
    given = f'optimizer_type = "{optimizer_type}"'
    if class_name.lower().endswith("schedulefree"):
        what = f"{given}: schedule-free optimizers are not supported yet."
        raise _refusal(what, 'Paste: optimizer_type = "AdamW"')
    if not module_path or not all(part.isidentifier() for part in path.split(".")):
        known = did_you_mean(optimizer_type.lower(), NAMES)
        remedy = f"{known} Other classes are named with their package, such as prodigyopt.Prodigy."
        raise _refusal(f"{given} is not known.", remedy)
    found = getattr(_import_module(module_path, given=given), class_name, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        what = f"{given}: {module_path} has no optimizer class {class_name}."
        raise _refusal(what, "Give the class's name as its package writes it; capital letters count.")
    if _needs_closure(found):
        what = f"{given} evaluates the loss several times in a step, which is not supported."
        raise _refusal(what, 'Paste: optimizer_type = "AdamW"')
    return found


def _import_module(module_path: str, *, given: str) -> Any:
    package = module_path.partition(".")[0]
    if package == "bitsandbytes":
        # On some processors its import advises to install a package that fetches kernels from a hub;
        # they serve 4-bit layers, not optimizers.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        importlib.import_module(package)
        return importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name == package:
            what = f"{given} needs the package {package}, which is not installed."
            raise _refusal(what, f"Run: pip install {package}") from error
        raise _refusal(f"{given} cannot be imported: {error}.", "Correct the path.") from error
    except (ImportError, OSError) as error:
        what = f"{given} cannot be imported: {error}."
        raise _refusal(what, f"Run: pip install --upgrade {package}") from error


def _needs_closure(optimizer_class: type[torch.optim.Optimizer]) -> bool:
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _read_arguments(written: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return name -> value of what could be read, and a problem for each of the others."""
    arguments: dict[str, Any] = {}
    problems = []
    for entry in written:
        name, equals, text = (part.strip() for part in entry.partition("="))
        if not equals or not name.isidentifier():
            remedy = 'Write "name=value", such as "weight_decay=0.01".'
            what = f'optimizer_args: "{entry}" is not name=value.'
            problems.append(_about_arguments(what, remedy))
        elif name in arguments:
            what = f'optimizer_args: {name} is given twice, the second time as "{entry}".'
            problems.append(_about_arguments(what, "Remove one of the two."))
        else:
            try:
                arguments[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError, TypeError):
                what = f'optimizer_args: the value of "{entry}" cannot be read.'
                problems.append(_about_arguments(what, _how_to_write(name, text)))
    return arguments, problems


def _how_to_write(name: str, text: str) -> str:
    """The remedy for a value that is no Python literal."""
    if not text.isidentifier():
        return f'Write it as Python does: "{name}=0.01", "{name}=(0.9, 0.99)", "{name}=True".'
    word = text.capitalize() if text.lower() in ("true", "false", "none") else repr(text)
    return f'Write "{name}={word}".'


def _check_arguments(
    optimizer_class: type[torch.optim.Optimizer], arguments: Mapping[str, Any]
) -> list[Problem]:
    name = optimizer_class.__name__
    parameters = inspect.signature(optimizer_class).parameters
    own = [argument for argument in arguments if argument in OWN_SETTINGS]
    problems = [
        _about_arguments(f"optimizer_args: {argument} is not given here.", OWN_SETTINGS[argument])
        for argument in own
    ]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return problems  # only its constructor knows what it takes
    accepted = [argument for argument in parameters if argument not in OWN_SETTINGS]
    return problems + [
        _about_arguments(
            f"optimizer_args: {name} takes no argument {argument}.",
            f"It takes {name_some(accepted, most=20)}.",
        )
        for argument in arguments
        if argument not in accepted and argument not in own
    ]


def _check_relative_step(
    optimizer_class: type[torch.optim.Optimizer], arguments: Mapping[str, Any], *, written: Sequence[str]
) -> list[Problem]:
    """Refuse Adafactor's own schedule: it wants no learning rate, and the schedule is ours."""
    parameter = inspect.signature(optimizer_class).parameters.get("relative_step")
    if parameter is None or not arguments.get("relative_step", parameter.default):
        return []
    kept = [entry for entry in written if entry.partition("=")[0].strip() not in ADAFACTOR_ARGUMENTS]
    line = ", ".join(f'"{entry}"' for entry in [*(f"{k}={v}" for k, v in ADAFACTOR_ARGUMENTS.items()), *kept])
    name = optimizer_class.__name__
    what = f"{name} with relative_step=True (its default) ignores learning_rate and lr_scheduler."
    remedy = f"Paste: optimizer_args = [{line}]"
    return [Problem(what=what, remedy=remedy, setting="optimizer_type")]


def _check_construction(
    optimizer_class: type[torch.optim.Optimizer], settings: OptimizerSettings
) -> list[Problem]:
    """Let the optimizer itself judge its arguments, on one small parameter."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    try:
        made = _construct(optimizer_class, [parameter], settings)
        if optimizer_class.__module__.startswith("torch."):
            # Other packages' optimizers may only step on a GPU.
            parameter.grad = torch.ones(2, 2)
            made.step()
    except CONSTRUCTION_ERRORS as error:
        what = f"{optimizer_class.__name__} refuses optimizer_args = {settings.optimizer_args}: {error}."
        return [_about_arguments(what, "Correct or remove the argument.")]
    return []


def _construct(
    make: Callable[..., torch.optim.Optimizer], parameters: Iterable[Any], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    arguments, _ = _read_arguments(settings.optimizer_args)
    return make(parameters, lr=settings.learning_rate, **arguments)


def check_learning_rate(settings: OptimizerSettings, *, device: torch.device | str = "cpu") -> list[Problem]:
    """Return the refusal of a rate with which this kind of optimizer destroys the LoRA or does nothing."""
    name = _class_name(settings.optimizer_type, device=device)
    given = f'learning_rate = {settings.learning_rate} with optimizer_type = "{settings.optimizer_type}"'
    lowest, highest = ADAPTIVE_RATES
    if _is_adaptive(name) and not lowest <= settings.learning_rate <= highest:
        what = f"{given}: it finds its step size itself, and multiplies it by learning_rate."
        remedy = f"Paste: learning_rate = 1.0\nPossible: {lowest} to {highest}."
        return [Problem(code="E24", what=what, remedy=remedy, setting="learning_rate")]
    if _is_elementwise(name) and settings.learning_rate > HIGHEST_RATE:
        what = f"{given} would destroy the LoRA within a few steps."
        remedy = "Paste: learning_rate = 1e-4\nRates near 1 are for optimizers such as prodigyopt.Prodigy."
        return [Problem(code="E24", what=what, remedy=remedy, setting="learning_rate")]
    return []


def _about_arguments(what: str, remedy: str) -> Problem:
    return Problem(what=what, remedy=remedy, setting="optimizer_args")


def _refusal(what: str, remedy: str) -> ProblemsFound:
    return ProblemsFound([Problem(what=what, remedy=remedy, setting="optimizer_type")])
