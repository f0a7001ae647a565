"""Prompt files: what is read, what is rounded, and what is refused with its place."""

import json

import pytest

from dataset.problems import ProblemsFound
from host.prompts import FLAGS, KEYS, KINDS, SamplePrompt, read_prompts


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
    ("asked", "used"), [(1000, 992), (1023, 1008), (65, 64), (64, 64), (40, 64), (512, 512)]
)
def test_sizes_are_rounded_down_to_16_but_not_below_64_and_it_is_said(write, asked, used):
    path = write("p.txt", f"a cat --w {asked}")
    (prompt,) = read_prompts(path)
    assert prompt.width == used
    note = f"{path}, line 1, column 7: width {asked} becomes {used}, a multiple of 16, at least 64."
    assert prompt.notes == ((note,) if asked != used else ())


def test_the_height_is_rounded_too(write):
    assert read_prompts(write("p.json", '[{"prompt": "a", "height": 777}]'))[0].height == 768


def test_a_negative_prompt_without_guidance_scale_is_noted(write):
    assert "no effect" in read_prompts(write("p.txt", "a cat --n a dog"))[0].notes[0]
    assert read_prompts(write("p.txt", "a cat --n a dog --l 3"))[0].notes == ()


@pytest.mark.parametrize(
    ("flags", "column", "what"),
    [
        ("--w wide", 7, "--w = 'wide' is not a whole number of pixels, 1 to 16384"),
        ("--w 5.5", 7, "--w = '5.5'"),
        ("--h -16", 7, "--h = '-16'"),
        ("--w", 7, "--w = ''"),
        ("--w 0", 7, "--w = '0'"),
        ("--d -1", 7, "--d = '-1' is not a whole number, 0 or more"),
        ("--s 0", 7, "--s = '0' is not a whole number, 1 to 1000"),
        ("--s 1001", 7, "--s = '1001'"),
        ("--g nan", 7, "--g = 'nan' is not a number, 0 or more"),
        ("--L inf", 7, "--L = 'inf'"),
        ("--fs -1", 7, "--fs = '-1'"),
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
    assert problem.remedy == f"Remove --{flag}."


@pytest.mark.parametrize(
    "key",
    ["frame_count", "image_path", "control_image_path", "controlnet_image", "sample_sampler", "one_frame"],
)
def test_keys_of_other_models_are_refused_by_name(write, key):
    (problem,) = problems_of(write("p.json", json.dumps([{"prompt": "a", key: 1}])))
    assert f"entry 1: {key} has no effect here" in problem.what


@pytest.mark.parametrize(
    ("entry", "what", "remedy"),
    [
        ({"prompt": "a", "widht": 5}, "entry 1: widht is not known", 'Did you mean "width"?'),
        ({"prompt": "a", "width": True}, "width = True is not", "whole number of pixels"),
        ({"prompt": "a", "width": 512.5}, "width = 512.5 is not", "whole number of pixels"),
        ({"prompt": "a", "scale": [1]}, "scale = [1] is not", "number"),
        ({"prompt": "a", "scale": True}, "scale = True is not", "number"),
        ({"prompt": "a", "scale": 1, "cfg_scale": 1}, "cfg_scale says the same as scale", "Remove one"),
        ({"prompt": 5}, "prompt = 5 is not a text", "a text"),
        ({"width": 512}, "entry 1: there is no prompt", "Add the key prompt"),
        ("--w 512", "entry 1: there is no prompt", "first"),
        (5, "entry 1: 5 is not a prompt", "a text"),
    ],
)
def test_a_bad_entry_is_refused_with_its_number(write, entry, what, remedy):
    (problem,) = problems_of(write("p.json", json.dumps([entry])))
    assert what in problem.what
    assert remedy in problem.remedy


def test_all_problems_of_a_file_are_found_at_once(write):
    path = write("p.txt", "a cat --w x --q 1\na dog --ss euler\n--w 512\na fish\n")
    assert [problem.what.removeprefix(f"{path}, ").partition(":")[0] for problem in problems_of(path)] == [
        "line 1, column 13",
        "line 1, column 7",
        "line 2, column 7",
        "line 3",
    ]


def test_a_bad_shared_key_is_named_once(write):
    path = write(
        "p.toml", '[prompt]\nprompt="a"\nwidth = "x"\n[[prompt.subset]]\n[[prompt.subset]]\nseed = -1'
    )
    assert [problem.what for problem in problems_of(path)] == [
        f"{path}, [prompt]: width = 'x' is not a whole number of pixels, 1 to 16384.",
        f"{path}, [[prompt.subset]] number 2: seed = -1 is not a whole number, 0 or more.",
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


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("a caf\u00e9".encode("latin-1"))
    (problem,) = problems_of(path)
    assert "not UTF-8 text (byte 5 cannot be read)" in problem.what


def test_the_suffix_counts_in_any_case(write):
    assert read_prompts(write("P.TXT", "a cat"))[0].prompt == "a cat"
