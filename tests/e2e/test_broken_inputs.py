"""Fifty broken training files and commands, each unlike the others: code, place, caret and remedy."""

import pytest
from jobs import TOY, draw_pictures, run
from toy_architecture import tiny

LINE = 7
"""Where the broken line stands in its file."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("broken")
    tiny(place / "models")
    draw_pictures(place / "pictures", sizes=[(64, 64)])
    return place


@pytest.fixture
def said(place, capsys):
    """Return what the check says of a file with some lines in it, and of a command."""

    def said(lines, *flags):
        (place / "train.toml").write_text(
            f"architecture = '{TOY}'\n"
            f"dit = '{place}/models/dit.safetensors'\n"
            f"vae = '{place}/models/vae.safetensors'\n"
            f"text_encoder = '{place}/models/text_encoder.safetensors'\n"
            f"output_dir = '{place}/out'\n"
            f"mixed_precision = 'no'\n"
            f"{lines}\n\n[general]\nenable_bucket = true\n"
            f"[[datasets]]\nimage_directory = '{place}/pictures'\ncache_directory = '{place}/cached'\n",
            encoding="utf-8",
        )
        capsys.readouterr()
        assert run("train", place / "train.toml", "--device", "cpu", "--check", *flags) == 2
        return capsys.readouterr().out.removeprefix("FAILED: ")

    return said


def excerpt(line, marked, *, number=LINE):
    """Return the line as it is shown, with carets under the last ``marked`` in it."""
    gutter = " " * len(str(number))
    at = line.rindex(marked)
    return f"    {number} | {line}\n    {gutter} | {' ' * at}{'^' * len(marked)}\n"


WHOLE = 'Write:  network_module = "networks.lora_flux"'
IN_FILE = [
    ("learning_rte = 1e-4", "E01", "learning_rte", 'Did you mean "learning_rate"?'),
    ("max_trian_steps = 100", "E01", "max_trian_steps", 'Did you mean "max_train_steps"?'),
    ("networkdim = 8", "E01", "networkdim", 'Did you mean "network_dim"?'),
    ("ae2 = 'x'", "E01", "ae2", 'Did you mean "ae"?'),
    ("Seed = 1", "E01", "Seed", 'Did you mean "seed"?'),
    ("network.dim = 8", "E01", "network.dim", 'Did you mean "network_dim"?'),
    ("network-alpha = 8", "E01", "network-alpha", 'Did you mean "network_alpha"?'),
    ("resolutoin = 512", "E01", "resolutoin", 'Did you mean "resolution"?'),
    ('save_state = "False"', "E03", '"False"', "Write:  save_state = false"),
    ("overwrite = 1", "E03", "1", "Write:  overwrite = true"),
    ("split_attn = [true]", "E03", "[true]", "Write true or false, without quotes."),
    ('learning_rate = "1e-4"', "E03", '"1e-4"', "Write:  learning_rate = 0.0001"),
    ('lr_warmup_steps = "10%"', "E03", '"10%"', "Write:  lr_warmup_steps = 0.1"),
    ('max_grad_norm = "0,5"', "E03", '"0,5"', "Write a number."),
    ("seed = 42.0", "E03", "42.0", "Write:  seed = 42"),
    ("network_dim = 16.5", "E03", "16.5", "Write a whole number."),
    ("max_grad_norm = -1", "E03", "-1", "Write a number that is at least 0."),
    ("network_alpha = 0", "E03", "0", "Write a number that is above 0."),
    ("network_dropout = 1", "E03", "1", "Write a number that is at least 0 and at most 0.99."),
    ("seed = inf", "E03", "inf", "Write a whole number."),
    ('network_args = "a=b"', "E03", '"a=b"', 'Write:  network_args = ["a=b"]'),
    ("optimizer_args = [0.01]", "E03", "[0.01]", 'Write:  optimizer_args = ["0.01"]'),
    ('loss_type = " l2"', "E03", '" l2"', 'Write:  loss_type = "l2"'),
    ('lr_scheduler = "COSINE"', "E03", '"COSINE"', 'Write:  lr_scheduler = "cosine"'),
    ('timestep_sampling = "flux_shfit"', "E03", '"flux_shfit"', 'Did you mean "flux_shift"?'),
    ('timestep_sampling = "sigma"', "E03", '"sigma"', 'Write:  timestep_sampling = "flux_shift"'),
    ('network_module = "networks.lora"', "", '"networks.lora"', WHOLE.replace("Write:", "Write")),
    ("cache_latents = false", "", "false", "Remove it."),
    ("discrete_flow_shift = 3.0", "", "3.0", 'let it act:  timestep_sampling = "shift"'),
    ("save_last_n = 2", "", "2", "let it act:  save_every_n_steps = 500"),
    ("lr_warmup_steps = 5", "", "5", 'let it act:  lr_scheduler = "constant_with_warmup"'),
    ("sample_at_first = false", "", "false", "let it act:  sample_prompts is set"),
    ("preset = 'fsat'", "E01", "'fsat'", 'Did you mean "fast"?'),
    (r'logging_dir = "C:\Users\me"', "E04", r'"C:\Users\me"', r"Write:  logging_dir = 'C:\Users\me'"),
    (r'sample_prompts = "C:\temp\new"', "E04", r'"C:\temp\new"', r"Write:  sample_prompts = 'C:\temp\new'"),
    ("mixed_precision = 'bf16'", "E04", "mixed_precision", "Keep one of the two lines."),
    ("save_state = True", "E04", "True", "Write:  save_state = true"),
    ("output_name = \u201cmine\u201d", "E04", "\u201cmine\u201d", 'Write:  output_name = "mine"'),
    ("output_name = mine", "E04", "mine", 'Write:  output_name = "mine"'),
    ("learning_rate = 1.0", "E24", "1.0", "Paste: learning_rate = 1e-4"),
    ("optimizer_type = 'prodigy'", "E24", "'prodigy'", "Paste: learning_rate = 1.0"),
    ("sample_prompts = 'nowhere.txt'", "", "'nowhere.txt'", "Correct sample_prompts."),
    ("network_preset = 'layrs'", "", "'layrs'", 'Did you mean "layers"?'),
    ("save_format = 'both'", "", "'both'", 'Write:  save_format = "kohya"'),
    ("resume = 'latest'", "E23", "'latest'", "Remove  resume  to begin anew"),
    ("output_name = 'a/b'", "", "'a/b'", 'Write  output_name = "b"  and put folders into output_dir.'),
    ("optimizer_type = 'AdmW'", "", "'AdmW'", 'Did you mean "adamw"?'),
    ("optimizer_args = ['eps=tiny']", "", "['eps=tiny']", "Write \"eps='tiny'\"."),
    (
        "lr_scheduler = 'cosine_with_min_lr'",
        "",
        "'cosine_with_min_lr'",
        "Paste: lr_scheduler_min_lr_ratio = 0.1",
    ),
    ("guidance_scale = 3.5", "", "3.5", "Remove guidance_scale."),
    ("network_args = ['a=b']", "", "['a=b']", "network_args = [\"exclude_patterns=['single_blocks.*']\"]"),
    ("network_dim = 1000000", "E03", "1000000", "at least 1 and at most 4096"),
    ("output_name = 'cat.safetensors'", "", "'cat.safetensors'", 'Write  output_name = "cat"'),
    ("train_batch_size = 0", "E03", "0", "Write  batch_size = 1"),
    ("image_directory = 'x'", "", "'x'", "Move the line below [general] or [[datasets]]"),
    ("network_weights = 'gone.safetensors'", "", "'gone.safetensors'", "or remove the line to begin anew."),
]


@pytest.mark.parametrize(("line", "code", "marked", "remedy"), IN_FILE, ids=[case[0] for case in IN_FILE])
def test_a_broken_line_is_told_with_code_place_caret_and_remedy(said, line, code, marked, remedy):
    message = said(line)
    heads = [text for text in message.splitlines() if not text.startswith(" ")]
    assert len(heads) == 1, message
    assert heads[0].startswith(f"{code} ") if code else not heads[0].startswith("E")
    assert f"train.toml, line {LINE}" in heads[0]
    assert excerpt(line, marked) in message
    assert remedy in message
    assert "Traceback" not in message


COMMANDS = [
    (("--save_state", "true"), "E03 --save_state takes no value", "Write  --save_state  or  --no_save_state"),
    (("--learning_rate",), "E03 --learning_rate has no value", "Write  --learning_rate VALUE"),
    (("more.toml",), 'E01 Unexpected word "more.toml"', "--NAME more.toml"),
    (("-seed", "1"), "E01 Unknown flag -seed", "Flags begin with two dashes."),
    (("--no_network_dim",), 'E01 Unknown flag "--no_network_dim"', "Correct or remove it"),
    (("--lerning-rate", "1"), 'E01 Unknown flag "--lerning_rate"', 'Did you mean "--learning_rate"?'),
    (
        ("--network_dim", "many"),
        'E03 network_dim is the text "many"',
        "--network_dim many\n                  ^^^^\n",
    ),
    (
        ("--loss_type=L2",),
        'E03 loss_type must be one of "l2"',
        "--loss_type=L2\n                ^^\n    Write:  --loss_type l2\n",
    ),
    (("--preset", "12gb", "fst"), 'E01 Unknown preset "fst"', 'Did you mean "fast"?'),
    (
        ("--lr_scheduler", "cosine", "--lr_warmup_steps", "9999"),
        "lr_warmup_steps = 9999 is longer than the run of 2000 steps (the command line).",
        "    --lr_warmup_steps 9999\n                      ^^^^\n    Give the warm-up as a share of the run."
        "\n    Paste: --lr_warmup_steps 0.05\n",
    ),
    (
        ("--seed", "1", "--seed", "2"),
        "E02 seed is given twice: the command line.",
        "Keep one of the two.",
    ),
]


@pytest.mark.parametrize(("flags", "says", "remedy"), COMMANDS, ids=[" ".join(c[0]) for c in COMMANDS])
def test_a_broken_command_is_told_with_code_place_and_remedy(said, flags, says, remedy):
    message = said("", *flags)
    assert says in message
    assert "the command line" in message
    assert remedy in message


def test_two_words_for_one_setting_are_shown_with_both_lines(said, place):
    message = said("clip_l = 'other.safetensors'")
    assert message.startswith(
        "E02 text_encoder and clip_l mean the same: train.toml, line 4 and train.toml, line 7."
    )
    assert excerpt("clip_l = 'other.safetensors'", "clip_l") in message


def test_a_secret_is_never_shown(said):
    message = said('wandb_api_key = "hush"')
    assert "wandb_api_key cannot be followed (train.toml, line 7)" in message
    assert "hush" not in message


def test_everything_broken_is_told_in_one_go(said, monkeypatch):
    monkeypatch.setenv("MUSUBI_NETWORK_DIN", "3")
    lines = "learning_rte = 1\nseed = '4'\nloss_type = 'l3'\n"
    message = said(lines, "--save_stat", "--max_train_steps", "0")
    assert [head.split()[0] for head in message.splitlines() if not head.startswith(" ")] == [
        "E01",
        "E03",
        "E03",
        "E01",
        "E01",
        "E03",
    ]
