"""Prompt files: what is read, and what is refused with its place."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.problems import ProblemsFound
from host.prompt_words import FLAGS, FOREIGN, KEYS
from host.prompts import KINDS, SamplePrompt, read_prompt, read_prompts


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path):
    with pytest.raises(ProblemsFound) as raised:
        read_prompts(path)
    return raised.value.problems


ALL_VALUES = SamplePrompt(
    prompt="a cat",
    width=768,
    height=512,
    seed=7,
    steps=12,
    guidance=2.5,
    cfg_scale=4.0,
    negative_prompt="a dog",
    flow_shift=3.1,
)
ALL_KEYS = {
    "prompt": "a cat",
    "width": 768,
    "height": 512,
    "seed": 7,
    "sample_steps": 12,
    "guidance_scale": 2.5,
    "cfg_scale": 4,
    "negative_prompt": "a dog",
    "discrete_flow_shift": 3.1,
}


def test_a_bare_line_gets_the_defaults(write):
    (prompt,) = read_prompts(write("p.txt", "a cat\n"))
    assert prompt == SamplePrompt(prompt="a cat")
    assert (prompt.width, prompt.height, prompt.seed, prompt.steps) == (1024, 1024, None, 20)
    assert (prompt.guidance, prompt.cfg_scale, prompt.negative_prompt, prompt.flow_shift) == (
        3.5,
        1.0,
        "",
        None,
    )
    assert prompt.notes == ()


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_every_flag_is_read_in_either_case(write, change):
    flags = {"w": 768, "h": 512, "d": 7, "s": 12, "g": 2.5, "l": 4, "n": "a dog", "fs": 3.1}
    line = "a cat" + "".join(f" --{change(flag)} {value}" for flag, value in flags.items())
    assert read_prompts(write("p.txt", line)) == [ALL_VALUES]
    assert set(flags) == set(FLAGS)


def test_toml_and_json_read_the_same_keys(write):
    toml = "[[prompt.subset]]\n" + "\n".join(f"{key} = {json.dumps(v)}" for key, v in ALL_KEYS.items())
    assert read_prompts(write("p.toml", toml)) == [ALL_VALUES]
    assert read_prompts(write("p.json", json.dumps([ALL_KEYS]))) == [ALL_VALUES]


def test_the_other_names_of_keys_are_read(write):
    (prompt,) = read_prompts(write("p.json", '[{"prompt": "a", "scale": 2, "flow_shift": 3}]'))
    assert (prompt.cfg_scale, prompt.flow_shift) == (2.0, 3.0)


def test_flags_and_keys_reach_every_field():
    fields = {name for name in SamplePrompt.__dataclass_fields__ if name != "notes"}
    assert set(KINDS) == fields == set(KEYS.values()) == {*FLAGS.values(), "prompt"}


def test_comments_and_empty_lines_are_skipped_and_the_order_is_kept(write):
    text = "# first\n\na cat\r\n   \n a dog \n#b\n"
    assert [p.prompt for p in read_prompts(write("p.txt", text))] == ["a cat", "a dog"]


def test_a_byte_order_mark_is_not_part_of_the_prompt(write):
    assert read_prompts(write("p.txt", "\ufeffa cat"))[0].prompt == "a cat"
    assert read_prompts(write("q.json", '\ufeff["a cat"]'))[0].prompt == "a cat"


@pytest.mark.parametrize(
    "text", ["I stand on a hill", "N 5 letters", "H 3 o'clock", "a -- b", "well--known", "s 20"]
)
def test_words_of_the_prompt_are_never_flags(write, text):
    assert read_prompts(write("p.txt", f"{text} --w 512")) == [SamplePrompt(prompt=text, width=512)]


def test_shared_keys_hold_for_every_subset_and_the_subset_wins(write):
    text = """
    [prompt]
    width = 512
    scale = 3
    prompt = "a cat"
    [[prompt.subset]]
    [[prompt.subset]]
    prompt = "a dog"
    cfg_scale = 5.0
    """
    cat, dog = read_prompts(write("p.toml", text))
    assert (cat.prompt, cat.width, cat.cfg_scale) == ("a cat", 512, 3.0)
    assert (dog.prompt, dog.width, dog.cfg_scale) == ("a dog", 512, 5.0)


def test_json_may_mix_objects_and_lines(write):
    prompts = read_prompts(write("p.json", '["a cat --d 5", {"prompt": "a dog"}]'))
    assert prompts == [SamplePrompt(prompt="a cat", seed=5), SamplePrompt(prompt="a dog")]


def test_zero_is_a_seed_like_any_other(write):
    assert read_prompts(write("p.txt", "a cat --d 0"))[0].seed == 0


def test_a_flow_shift_of_zero_means_the_resolution_decides(write):
    assert read_prompts(write("p.txt", "a cat --fs 0"))[0].flow_shift is None


@pytest.mark.parametrize(
    ("asked", "choices"),
    [(1000, "--w 992 or --w 1008"), (65, "--w 64 or --w 80"), (16383, "--w 16368 or --w 16384")],
)
def test_a_size_between_two_that_the_model_takes_is_refused_and_both_are_named(write, asked, choices):
    (problem,) = problems_of(write("p.txt", f"a cat --w {asked}"))
    assert f"--w = {asked} is not a multiple of 16" in problem.what
    assert problem.remedy.endswith(f"\nWrite  {choices}")


def test_sizes_are_what_the_architecture_wants(write):
    path = write("p.json", '[{"prompt": "a", "height": 80}]')
    assert read_prompts(path)[0].height == 80
    with pytest.raises(ProblemsFound, match="height = 80 is not a multiple of 32") as raised:
        read_prompts(path, size_step=32)
    assert raised.value.problems[0].remedy.endswith('Write  "height": 64 or "height": 96')
    with pytest.raises(ProblemsFound, match="multiple of 32"):
        read_prompt("a --w 80", size_step=32)


def test_a_negative_prompt_without_guidance_scale_is_noted(write):
    assert "no effect" in read_prompts(write("p.txt", "a cat --n a dog"))[0].notes[0]
    assert read_prompts(write("p.txt", "a cat --n a dog --l 3"))[0].notes == ()


@pytest.mark.parametrize(
    ("flags", "column", "what"),
    [
        ("--w wide", 11, "--w = 'wide' is not a whole number of pixels, 64 to 16384"),
        ("--w 5.5", 11, "--w = '5.5'"),
        ("--h -16", 11, "--h = '-16'"),
        ("--w", 7, "--w has no value"),
        ("--w --h 512", 7, "--w has no value"),
        ("--n  ", 7, "--n has no value"),
        ("--w 0", 11, "--w = '0'"),
        ("--w 48", 11, "--w = '48' is not a whole number of pixels, 64 to 16384"),
        ("--w 16400", 11, "--w = '16400'"),
        ("--w 512 --h 72", 19, "--h = 72 is not a multiple of 16"),
        ("--d -1", 11, "--d = '-1' is not a whole number, 0 to 9223372036854775807"),
        ("--d 9223372036854775808", 11, "--d = '9223372036854775808'"),
        ("--s 0", 11, "--s = '0' is not a whole number, 1 to 1000"),
        ("--s -5", 11, "--s = '-5'"),
        ("--s 1001", 11, "--s = '1001'"),
        ("--g nan", 11, "--g = 'nan' is not a number, 0 or more"),
        ("--L inf", 11, "--L = 'inf'"),
        ("--fs -1", 12, "--fs = '-1'"),
        ("--s\t\ttwo", 12, "--s = 'two'"),
        ("--w 512 --x 3", 15, "--x is not known"),
        ("--w 512 --w 640", 15, "--w is given twice"),
        ("--w 512   --f 1", 17, "--f has no effect here"),
    ],
)
def test_a_bad_flag_is_refused_with_line_and_column(write, flags, column, what):
    path = write("p.txt", f"# c\na cat {flags}")
    (problem,) = problems_of(path)
    assert problem.what.startswith(f"{path}, line 2, column {column}: {what}")


@pytest.mark.parametrize("flag", ["f", "i", "ei", "ci", "cn", "of", "ss", "ctr", "rcfg", "SS"])
def test_flags_of_other_models_are_refused_by_name(write, flag):
    (problem,) = problems_of(write("p.txt", f"a cat --{flag} x"))
    assert f"--{flag} has no effect here" in problem.what
    assert problem.remedy.endswith(f"\nRemove --{flag}.")


@pytest.mark.parametrize(
    "key",
    ["frame_count", "image_path", "control_image_path", "controlnet_image", "sample_sampler", "one_frame"],
)
def test_keys_of_other_models_are_refused_by_name(write, key):
    (problem,) = problems_of(write("p.json", json.dumps([{"prompt": "a", key: 1}])))
    assert f", line 1, column 18: {key} has no effect here" in problem.what


@pytest.mark.parametrize(
    ("entry", "what", "remedy"),
    [
        ({"prompt": "a", "widht": 5}, "column 18: widht is not known", 'Did you mean "width"?'),
        ({"prompt": "a", "width": True}, "column 27: width = true is not", "whole number of pixels"),
        ({"prompt": "a", "width": 512.5}, "width = 512.5 is not", "whole number of pixels"),
        ({"prompt": "a", "scale": [1]}, "scale = [1] is not", "number"),
        ({"prompt": "a", "scale": True}, "scale = true is not", "number"),
        ({"prompt": "a", "scale": 1, "cfg_scale": 1}, "cfg_scale says the same as scale", "Remove one"),
        ({"prompt": 5}, "prompt = 5 is not a text", "a text"),
        ({"width": 512}, "column 2: there is no prompt", "Add the key prompt"),
        ("--w 512", "column 3: there is no prompt", "Write what"),
        (5, "column 2: 5 is not a prompt", "a text"),
    ],
)
def test_a_bad_entry_is_refused_with_its_number(write, entry, what, remedy):
    (problem,) = problems_of(write("p.json", json.dumps([entry])))
    assert what in problem.what
    assert remedy in problem.remedy


def test_all_problems_of_a_file_are_found_at_once(write):
    path = write("p.txt", "a cat --w x --q 1\na dog --ss euler\n--w 512\na fish\n")
    assert [problem.what.removeprefix(f"{path}, ").partition(":")[0] for problem in problems_of(path)] == [
        "line 1, column 11",
        "line 1, column 13",
        "line 2, column 7",
        "line 3, column 1",
    ]


def test_a_bad_shared_key_is_named_once(write):
    path = write(
        "p.toml", '[prompt]\nprompt="a"\nwidth = "x"\n[[prompt.subset]]\n[[prompt.subset]]\nseed = -1'
    )
    assert [problem.what for problem in problems_of(path)] == [
        f'{path}, line 3, column 9: width = "x" is not a whole number of pixels, 64 to 16384.',
        f"{path}, line 6, column 8: seed = -1 is not a whole number, 0 to 9223372036854775807.",
    ]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("p.txt", "", "has no prompt"),
        ("p.txt", "# only\n\n# comments", "has no prompt"),
        ("p.toml", "", "has no prompt"),
        ("p.json", "", "has no prompt"),
        ("p.json", "[]", "has no prompt"),
        ("p.json", '{"prompt": "a"}', "is not a list"),
        ("p.json", '[\n "a",\n]', "line 3, column 1"),
        ("p.toml", "[prompt]\nwidth = \n", "line 2"),
        ("p.toml", 'prompt = "a cat"', "not a table with subsets"),
        ("p.toml", "[prompt]\nsubset = 1", "not a table with subsets"),
        ("p.toml", '[prompt]\nprompt = "a cat"', "[prompt] has no subset"),
        ("p.toml", 'width = 1\n[[prompt.subset]]\nprompt = "a"', "width does not belong here"),
        ("p.csv", "a cat", "is not a prompt file"),
    ],
)
def test_a_file_without_readable_prompts_is_refused(write, name, text, what):
    path = write(name, text)
    (problem,) = problems_of(path)
    assert str(path) in problem.what
    assert what in problem.what


def test_a_missing_file_is_refused(tmp_path):
    (problem,) = problems_of(tmp_path / "none.txt")
    assert "none.txt cannot be read: No such file" in problem.what


def test_the_suffix_counts_in_any_case(write):
    assert read_prompts(write("P.TXT", "a cat"))[0].prompt == "a cat"


def test_the_line_is_shown_with_carets_under_what_is_wrong(write):
    (problem,) = problems_of(write("p.txt", "# c\na cat --w wide --h 64"))
    assert problem.remedy.splitlines() == [
        "2 | a cat --w wide --h 64",
        "  |           ^^^^",
        "Give --w a whole number of pixels, 64 to 16384.",
    ]


def test_of_a_long_line_the_part_around_the_carets_is_shown(write):
    (problem,) = problems_of(write("p.txt", "long words " * 60 + "--s many"))
    shown, carets, _ = problem.remedy.splitlines()
    assert len(shown) < 110
    assert shown.startswith("1 | ...")
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "many"
    assert problem.what.partition(":")[0].endswith("line 1, column 665")


@pytest.mark.parametrize(
    ("name", "text", "marked"),
    [
        ("p.json", '[\n  {"prompt": "a",\n   "width": "wide"}]', '"wide"'),
        ("p.json", '["a", "a cat --w wide"]', "wide"),
        ("p.json", '["a tab\\t --w wide"]', '"a tab\\t --w wide"'),
        ("p.json", '[{"prompt": "a <lora:b:1>"}]', "<lora:b:1>"),
        ("p.json", '[{"prompt": "a",\n "prompt": "b"}]', '"prompt"'),
        ("p.json", '[{"prompt": ""}]', '""'),
        ("p.json", '["a"] b', "b"),
        ("p.toml", '[[prompt.subset]]\nprompt = "a"\nheight = 65 # c', "65"),
        ("p.toml", '[[prompt.subset]]\nprompt = "a (red:1.2)"', "(red:1.2)"),
        ("p.toml", '[[prompt.subset]]\nprompt = "a"\n[[prompt.subset]]\nprompt = "b"\nseeed = 1', "seeed"),
        ("p.toml", '[[prompt.subset]]\nprompt = "a"\nprompt = "b"', "prompt"),
        ("p.txt", "a cat\r\na dog --x 1\r\n", "--x"),
        ("p.txt", "a <LyCO:b> cat", "<LyCO:b>"),
        ("p.txt", "a cat --n a <lora:b:1> dog --l 2", "<lora:b:1>"),
    ],
)
def test_carets_are_under_the_word_itself_in_every_kind_of_file(write, name, text, marked):
    (problem,) = problems_of(write(name, text))
    shown, carets, *_ = problem.remedy.splitlines()
    assert shown[carets.index("^") : carets.rindex("^") + 1] == marked
    line = int(shown.partition(" | ")[0])
    assert f"line {line}" in problem.what


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("a cat --width 512", 'Did you mean "--w"?'),
        ("a cat --sample_steps 5", 'Did you mean "--s"?'),
        ("a cat --fss 3", 'Did you mean "--fs"?'),
        ("a cat --x 3", "Known: --w width, --h height, --d seed"),
        ("a cat --w=512", "Write  --w 512"),
        ("a cat --s20", "Write  --s 20"),
        ("a cat --g 3,5", "Write  --g 3.5"),
        ("a cat --s 20 steps", "Put the words 'steps' before the flags:  --s 20"),
        ("a cat--w 512", "Write  --w  with a space before it."),
        ("a cat \u2014w 512", "Write  --w  with a space before it."),
        ("a cat -w 512", "Write  --w  with a space before it."),
        ("a (red:1.3) cat", "Write  red"),
        ("a <lora:cat:0.8> cat", "Remove <lora:cat:0.8>."),
        ("a cat --am 0.8", "Remove --am."),
    ],
)
def test_what_was_probably_meant_is_said(write, line, remedy):
    (problem,) = problems_of(write("p.txt", line))
    assert problem.remedy.splitlines()[-1].startswith(remedy)


@pytest.mark.parametrize(
    ("key", "meant"), [("steps", "sample_steps"), ("guidance", "guidance_scale"), ("promt", "prompt")]
)
def test_keys_that_are_nearly_right_are_told_the_right_one(write, key, meant):
    (problem,) = problems_of(write("p.json", json.dumps([{"prompt": "a", key: 1}])))
    assert problem.remedy.endswith(f'Did you mean "{meant}"?')


@pytest.mark.parametrize(
    "text",
    ["at (time 10:30)", "a ratio (1:1.5)", "a (red) cat", "a < b > c", "<loran> is here", "3-w 5", "re-do 5"],
)
def test_brackets_and_dashes_of_plain_text_are_plain_text(write, text):
    assert read_prompts(write("p.txt", text)) == [SamplePrompt(prompt=text)]


def test_strengths_are_sent_to_the_setting_that_has_them():
    for word in ("--am", "--strength", "strength", "network_multiplier", "lora_multiplier"):
        assert "sample_strengths" in FOREIGN[word]


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        ("a cat\nein K\u00e4se".encode("latin-1"), 2, 11),
        ("a cat".encode("utf-16"), 1, 0),
        ("a cat".encode("utf-16-le"), 1, 1),
        (b"a cat\n\n\xff", 3, 7),
    ],
)
def test_the_byte_and_the_line_that_are_not_utf_8_are_named(tmp_path, content, line, byte):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    (problem,) = problems_of(path)
    assert f"{path}, line {line}, is not UTF-8 text (byte {byte} cannot be read)" in problem.what
    assert ("UTF-16" in problem.what) == (b"\0" in content)


def test_json_that_nests_without_end_is_refused(write):
    (problem,) = problems_of(write("p.json", "[" * 100_000))
    assert "too deeply" in problem.what


def test_one_prompt_of_the_command_line_is_refused_with_its_column():
    with pytest.raises(ProblemsFound) as raised:
        read_prompt("a cat --w x\n --h 65")
    assert [problem.what.partition(": ")[0] for problem in raised.value.problems] == [
        "the prompt, column 11",
        "the prompt, column 18",
    ]


@given(st.text(max_size=40), st.sampled_from([".txt", ".json", ".toml"]))
def test_any_text_is_read_or_refused_with_problems(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    for content in (text, f'["{text}"]', f'[{{"prompt": "a", {json.dumps(text)}: {json.dumps(text)}}}]'):
        path.write_text(content, encoding="utf-8", errors="replace", newline="")
        with suppress(ProblemsFound):
            assert read_prompts(path)
