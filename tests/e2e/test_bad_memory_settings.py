"""Settings of memory and speed that cannot be followed: refused before a weight is read, with what to use."""

import pytest
from jobs import train, write_job


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_job(tmp_path_factory.mktemp("job"), architecture="fd")


def refused(plain, capsys, *flags, line=""):
    """Return what is said of a job with one more line; it begins with that line."""
    job = plain.with_name("with_a_line.toml")
    job.write_text(f"{line}\n{plain.read_text()}")
    assert train(job, "--check", *flags) == 2
    said = capsys.readouterr().out
    assert "loading" not in said
    return said[said.index("FAILED") :]


OUT_OF_RANGE = "A number from 0 to 6 will do; 6 is all of them.\n"


def test_too_many_swapped_blocks_in_the_file_are_refused_with_range_and_line(plain, capsys):
    assert refused(plain, capsys, line="blocks_to_swap = 7") == (
        "FAILED: blocks_to_swap = 7: this transformer has 6 blocks (with_a_line.toml, line 1).\n"
        "    1 | blocks_to_swap = 7\n"
        "      |                  ^\n"
        f"    {OUT_OF_RANGE}"
        "    Write: blocks_to_swap = 6\n"
    )


def test_too_many_swapped_blocks_of_a_flag_are_refused_with_a_flag(plain, capsys):
    said = refused(plain, capsys, "--blocks_to_swap", "99")
    assert "this transformer has 6 blocks (the command line).\n    --blocks_to_swap 99\n" in said
    assert said.endswith(f"^^\n    {OUT_OF_RANGE}    Write: --blocks_to_swap 6\n")


def test_too_many_swapped_blocks_of_the_environment_are_refused_in_its_form(plain, capsys, monkeypatch):
    monkeypatch.setenv("MUSUBI_BLOCKS_TO_SWAP", "99")
    said = refused(plain, capsys)
    assert "this transformer has 6 blocks (the environment).\n    MUSUBI_BLOCKS_TO_SWAP=99\n" in said
    assert said.endswith(f"^^\n    {OUT_OF_RANGE}    Write: MUSUBI_BLOCKS_TO_SWAP=6\n")


@pytest.mark.parametrize("value", ["-1", "2.5", '"25"', "true"])
def test_what_is_no_number_of_blocks_is_refused_with_carets(plain, capsys, value):
    said = refused(plain, capsys, line=f"blocks_to_swap = {value}")
    assert said.startswith("FAILED: E03 blocks_to_swap ")
    assert f"      |                  {'^' * len(value)}\n" in said


def test_all_blocks_may_be_swapped(plain):
    assert train(plain, "--check", "--blocks_to_swap", "6") == 0


@pytest.mark.parametrize(
    ("line", "flags", "variable"),
    [
        ("compile = true", ["--compile"], ("MUSUBI_COMPILE", "true")),
        ("compile_fullgraph = true", ["--compile_fullgraph"], ("MUSUBI_COMPILE_FULLGRAPH", "true")),
    ],
)
def test_compiling_is_refused_with_the_reason_and_what_is_faster(
    plain, capsys, monkeypatch, line, flags, variable
):
    found = [refused(plain, capsys, line=line), refused(plain, capsys, *flags)]
    monkeypatch.setenv(*variable)
    found.append(refused(plain, capsys))
    for said, place in zip(
        found, ["with_a_line.toml, line 1", "the command line", "the environment"], strict=True
    ):
        assert f"cannot be followed ({place}): compiling the blocks is not built yet." in said
        assert "gradient_checkpointing = false" in said
        assert "^^" in said


@pytest.mark.parametrize(("name", "value"), [("compile_backend", "eager"), ("compile_mode", "max-autotune")])
def test_options_of_compiling_are_refused_with_their_value(plain, capsys, name, value):
    said = refused(plain, capsys, line=f'{name} = "{value}"')
    assert f'{name} = "{value}" cannot be followed (with_a_line.toml, line 1)' in said
    assert "is not built yet" in refused(plain, capsys, f"--{name}", value)


def test_scales_without_8_bit_are_refused_with_the_line_that_lets_them_act(plain, capsys):
    assert "fp8_base = true" in refused(plain, capsys, line="fp8_scaled = true")
    assert "fp8_base" in refused(plain, capsys, "--fp8_scaled")
