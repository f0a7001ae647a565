"""Names, arguments and rates of optimizers; and that a saved optimizer goes on bit for bit."""

import io
import logging
import runpy
import sys

import pytest
import torch
from torch import nn

import host.optimizers
from dataset.problems import ProblemsFound
from host.optimizers import (
    ADAFACTOR_ARGUMENTS,
    NAMES,
    OptimizerSettings,
    check_optimizer,
    describe,
    make_optimizer,
    optimizer_notes,
)

ADAFACTOR = [f"{name}={value}" for name, value in ADAFACTOR_ARGUMENTS.items()]


def parameters() -> list[nn.Parameter]:
    """Two low-rank factors, of which bitsandbytes keeps only the first in 8 bits, and a vector."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 300), (30, 16), (7,))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        optimizer.step()


def check(optimizer_type: str, *args: str, rate: float = 1e-4, device: str = "cpu"):
    settings = OptimizerSettings(optimizer_type=optimizer_type, optimizer_args=list(args), learning_rate=rate)
    return check_optimizer(settings, device=device)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("AdamW", "torch.optim.adamw.AdamW"),
        ("adamw", "torch.optim.adamw.AdamW"),
        ("ADAMW8BIT", "bitsandbytes.optim.adamw.AdamW8bit"),
        ("PagedAdamW8bit", "bitsandbytes.optim.adamw.PagedAdamW8bit"),
        ("torch.optim.SGD", "torch.optim.sgd.SGD"),
        ("bitsandbytes.optim.Lion8bit", "bitsandbytes.optim.lion.Lion8bit"),
    ],
)
def test_a_name_in_any_case_or_a_dotted_path_gives_its_class(given, path):
    optimizer = make_optimizer(parameters(), OptimizerSettings(optimizer_type=given), device="cpu")
    assert f"{type(optimizer).__module__}.{type(optimizer).__name__}" == path


@pytest.mark.parametrize("name", [n for n, path in NAMES.items() if not path.startswith(("lion_", "dadapt"))])
def test_every_short_name_of_an_installed_package_can_be_made(name):
    args = ADAFACTOR if name == "adafactor" else []
    rate = 1.0 if name == "prodigy" else 1e-4
    assert check(name, *args, rate=rate) == []


def test_auto_is_adamw_and_with_8_bits_on_cuda():
    assert describe(OptimizerSettings(), device="cpu") == "torch.optim.adamw.AdamW"
    assert describe(OptimizerSettings(), device="cuda:1") == "bitsandbytes.optim.adamw.AdamW8bit"


def test_the_rate_and_the_arguments_reach_the_optimizer():
    settings = OptimizerSettings(
        optimizer_type="AdamW", optimizer_args=["weight_decay=0.25", " betas = 0.8,0.9"], learning_rate=3e-4
    )
    (group,) = make_optimizer(parameters(), settings, device="cpu").param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (3e-4, 0.25, (0.8, 0.9))


def test_without_arguments_the_defaults_are_those_of_the_library():
    (ours,) = make_optimizer(parameters(), OptimizerSettings(), device="cpu").param_groups
    (theirs,) = torch.optim.AdamW(parameters(), lr=1e-4).param_groups
    assert ours | {"params": []} == theirs | {"params": []}


def test_groups_keep_what_they_bring():
    down, up, _ = parameters()
    groups = [{"params": [down]}, {"params": [up], "weight_decay": 0.5}]
    optimizer = make_optimizer(groups, OptimizerSettings(), device="cpu")
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.5]


def test_the_metadata_line_names_class_and_given_arguments():
    settings = OptimizerSettings(
        optimizer_type="AdamW", optimizer_args=["weight_decay=0.01", "betas=(0.9,0.99)"]
    )
    assert describe(settings, device="cpu") == "torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.99))"


def test_bitsandbytes_and_transformers_are_imported_only_when_chosen(monkeypatch):
    for package in ("bitsandbytes", "transformers"):
        for name in [n for n in sys.modules if n.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)  # from here on its import fails
    fresh = runpy.run_path(str(host.optimizers.__file__))
    settings = fresh["OptimizerSettings"](optimizer_type="AdamW")
    assert isinstance(fresh["make_optimizer"](parameters(), settings, device="cpu"), torch.optim.AdamW)
    (problem,) = fresh["check_optimizer"](fresh["OptimizerSettings"](), device="cuda")
    assert problem.what == 'optimizer_type = "auto" needs the package bitsandbytes, which is not installed.'
    assert problem.remedy == "Run: pip install bitsandbytes"


@pytest.mark.parametrize(
    ("optimizer_type", "what", "remedy"),
    [
        ("AdamW8bits", '"AdamW8bits" is not known', 'Did you mean "adamw8bit"?'),
        ("", '"" is not known', "prodigyopt.Prodigy"),
        ("torch..AdamW", "is not known", "prodigyopt.Prodigy"),
        ("no_such_package.Fast", "needs the package no_such_package", "pip install no_such_package"),
        ("torch.no_such_part.AdamW", "No module named 'torch.no_such_part'", "Correct the path"),
        ("torch.optim.adamw", "torch.optim has no optimizer class adamw", "capital letters count"),
        ("torch.nn.Linear", "no optimizer class Linear", "capital letters count"),
        ("AdamWScheduleFree", "not supported yet", '"AdamW"'),
        ("schedulefree.AdamWScheduleFree", "not supported yet", '"AdamW"'),
        ("torch.optim.LBFGS", "several times", '"AdamW"'),
    ],
)
def test_an_optimizer_that_cannot_be_had_is_refused_with_a_way_out(optimizer_type, what, remedy):
    (problem,) = check(optimizer_type)
    assert what in problem.what
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("argument", "what", "remedy"),
    [
        ("weight_decay", '"weight_decay" is not name=value', '"weight_decay=0.01"'),
        ("=0.1", '"=0.1" is not name=value', '"weight_decay=0.01"'),
        ("betas=(0.9,", '"betas=(0.9,"', "(0.9, 0.99)"),
        ("eps=__import__('os')", "cannot be read", "eps=0.01"),
        ("amsgrad=true", '"amsgrad=true"', 'Write "amsgrad=True".'),
        ("foreach=a=b", '"foreach=a=b"', "as Python does"),
        ("weigth_decay=0.1", "AdamW takes no argument weigth_decay", "betas, eps, weight_decay"),
        ("lr=0.1", "lr is not given here", "learning_rate"),
        ("params=[]", "params is not given here", "network"),
        ("betas=(2,3)", "Invalid beta parameter", "Correct"),
        ("weight_decay='much'", "weight_decay='much'", "Correct"),
    ],
)
def test_a_bad_argument_is_refused_before_a_weight_is_read(argument, what, remedy):
    (problem,) = check("AdamW", argument)
    assert what in problem.what
    assert remedy in problem.remedy


def test_an_argument_given_twice_is_refused():
    (problem,) = check("AdamW", "eps=1e-8", "eps=1e-6")
    assert 'eps is given twice, the second time as "eps=1e-6"' in problem.what


def test_a_value_may_contain_an_equals_sign():
    arguments, problems = host.optimizers._read_arguments(["mode='a=b'"])
    assert (arguments, problems) == ({"mode": "a=b"}, [])


def test_adafactor_with_its_own_schedule_is_refused_with_the_line_to_paste():
    (problem,) = check("Adafactor")
    assert "relative_step=True" in problem.what
    line = 'optimizer_args = ["relative_step=False", "scale_parameter=False", "warmup_init=False"]'
    assert problem.remedy == f"Paste: {line}"


def test_the_line_to_paste_keeps_the_other_arguments():
    (problem,) = check("adafactor", "clip_threshold=2.0", "relative_step=True")
    assert problem.remedy.endswith('"warmup_init=False", "clip_threshold=2.0"]')


def test_all_problems_of_an_optimizer_are_found_at_once():
    assert len(check("adamv", "weight_decay", "eps=(", rate=1.0)) == 4
    assert len(check("AdamW", "weight_decay", "eps=(", "lr=1", "speed=2", rate=1.0)) == 5


def test_make_optimizer_raises_what_the_check_finds():
    settings = OptimizerSettings(optimizer_type="AdamW", optimizer_args=["speed=2"], learning_rate=1.0)
    with pytest.raises(ProblemsFound) as raised:
        make_optimizer(parameters(), settings, device="cpu")
    assert list(raised.value.problems) == check_optimizer(settings)


SOUND_RATES = [("auto", 0.1), ("torch.optim.SGD", 1.0), ("prodigy", 0.1), ("prodigyopt.Prodigy", 2.0)]
LARGE_RATES = [("auto", 0.11), ("AdamW8bit", 1.0), ("torch.optim.NAdam", 1.0), ("PagedLion8bit", 1.0)]
ADAPTIVE_RATES = [("prodigy", 0.09), ("prodigyopt.Prodigy", 1e-4), ("prodigy", 2.1)]


@pytest.mark.parametrize(("optimizer_type", "rate"), SOUND_RATES)
def test_a_rate_at_the_bounds_is_accepted(optimizer_type, rate):
    assert check(optimizer_type, rate=rate) == []


@pytest.mark.parametrize(("optimizer_type", "rate"), LARGE_RATES + ADAPTIVE_RATES)
def test_a_rate_that_destroys_or_does_nothing_is_refused(optimizer_type, rate):
    (problem,) = check(optimizer_type, rate=rate)
    assert problem.code == "E24"
    assert f"learning_rate = {rate}" in problem.what


def test_the_rate_of_an_adaptive_optimizer_is_judged_even_when_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "dadaptation", None)
    problems = check("DAdaptAdam", rate=1e-4)
    assert [problem.code for problem in problems] == ["", "E24"]
    assert "learning_rate = 1.0" in problems[1].remedy


NOTES = [("AdamW", 2e-3, 0), ("AdamW", 2.1e-3, 1), ("AdamW", 0.2, 0), ("torch.optim.SGD", 0.05, 0)]


@pytest.mark.parametrize(("optimizer_type", "rate", "count"), [*NOTES, ("DAdaptAdam", 0.05, 0)])
def test_a_high_rate_is_noted_and_not_refused(optimizer_type, rate, count):
    notes = optimizer_notes(OptimizerSettings(optimizer_type=optimizer_type, learning_rate=rate))
    assert len(notes) == count
    assert all(f"learning_rate = {rate}" in note for note in notes)


KINDS = [
    ("AdamW", []),
    ("AdamW8bit", []),
    ("Adafactor", ADAFACTOR),
    ("Adafactor", [*ADAFACTOR[:1], "beta1=0.9", "weight_decay=0.01"]),
    ("bitsandbytes.optim.Lion8bit", []),
    ("torch.optim.SGD", ["momentum=0.9"]),
    ("prodigyopt.Prodigy", ["d0=0.01", "use_bias_correction=True"]),
]


def settings_of(optimizer_type: str, args: list[str]) -> OptimizerSettings:
    rate = 1.0 if optimizer_type.endswith("Prodigy") else 1e-2
    return OptimizerSettings(optimizer_type=optimizer_type, optimizer_args=args, learning_rate=rate)


@pytest.mark.parametrize(("optimizer_type", "args"), KINDS)
def test_a_saved_optimizer_goes_on_bit_for_bit(optimizer_type, args):
    settings = settings_of(optimizer_type, args)
    straight = parameters()
    optimizer = make_optimizer(straight, settings, device="cpu")
    train(straight, optimizer, range(5))

    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": [w.detach() for w in straight]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(weight) for weight in saved["weights"]]
    again = make_optimizer(resumed, settings, device="cpu")
    again.load_state_dict(saved["optimizer"])
    before = [weight.detach().clone() for weight in resumed]

    train(straight, optimizer, range(5, 9))
    train(resumed, again, range(5, 9))
    assert all(torch.equal(one, other) for one, other in zip(straight, resumed, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(before, resumed, strict=True))


def test_bitsandbytes_really_keeps_8_bits_for_large_factors():
    weights = parameters()
    optimizer = make_optimizer(weights, OptimizerSettings(optimizer_type="AdamW8bit"), device="cpu")
    train(weights, optimizer, range(1))
    kept = [optimizer.state[weight]["state1"].dtype for weight in weights]
    assert kept == [torch.uint8, torch.float32, torch.float32]


def test_bitsandbytes_does_not_advise_to_fetch_kernels_from_a_hub():
    check("AdamW8bit")
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize(("optimizer_type", "args"), KINDS)
def test_two_optimizers_made_alike_train_alike(optimizer_type, args):
    settings = settings_of(optimizer_type, args)
    runs = []
    for _ in range(2):
        weights = parameters()
        train(weights, make_optimizer(weights, settings, device="cpu"), range(4))
        runs.append(weights)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_making_an_optimizer_twice_over_the_same_parameters_changes_nothing():
    settings = OptimizerSettings(optimizer_type="AdamW8bit")
    once, twice = parameters(), parameters()
    make_optimizer(twice, settings, device="cpu")
    for weights in (once, twice):
        train(weights, make_optimizer(weights, settings, device="cpu"), range(3))
    assert all(torch.equal(one, other) for one, other in zip(once, twice, strict=True))
