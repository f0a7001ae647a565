"""The documentation names only what exists, and the example configurations are read as they stand."""

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import toml
import torch
from jobs import ROOT, draw_pictures

from dataset.config import parse_datasets
from dataset.config_rules import FOREIGN_KEYS, OWN_RULES, SHARED_RULES
from host.check import check_job
from host.config import load_config
from host.errors import ConfigError
from host.foreign_words import FOREIGN_WORDS
from host.processes import Processes
from host.prompt_words import FLAGS, KEYS
from host.prompts import read_prompts
from host.registry import find_architecture
from host.results import StartKind, decide_start
from host.settings import CONTROL_WORDS, all_fields
from host.states import Progress

PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "musubi_flux_dev" / "README.md"],
    key=Path.as_posix,
)
CONFIGS = sorted(ROOT.glob("toml/*.toml"))
TOPS = "host|dataset|networks|musubi_flux_dev|toml|tests|docs|benchmarks"
PATH = re.compile(rf"(?:(?:{TOPS})/[\w./-]*|[\w-]+\.(?:py|toml))(?:::\w+)?")
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
ASSIGNMENT = re.compile(r"([a-z][a-z0-9_]*) = .+")
FLAG = re.compile(r"--([a-z][a-z0-9_]*)(?: .+)?")
WORDS_OF_OTHERS = {
    *("guidance_vec", "hidden_states", "noise_pred", "model_pred", "noisy_model_input", "prompt_embeds"),
    *("pooled_projections", "image_seq_len", "get_noise", "bucket_reso", "item_info", "global_step"),
    *("lora_name", "from_pretrained", "ss_training_started_at", "ss_training_finished_at"),
}
"""Names of other programs, and what is deliberately left out."""

FLAGS_BESIDE_SETTINGS = {
    *("lora_weight", "lora_multiplier", "prompt", "from_file", "save_path", "name"),
    *("lora", "strengths", "seeds", "concept"),
}
"""Those of the programs that draw and compare pictures, and the word that stands for any flag."""

USERS_OWN = {"job.toml", "cache_latents.py", "cache_text_encoder_outputs.py", "__init__.py", "musubi_mymodel"}
"""What the reader makes, or what any package has."""

PATH_LINE = re.compile(r"^(\w+) = '[^']*'", flags=re.MULTILINE)


def code_spans(page):
    """Return what stands between backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


@cache
def known_settings():
    words = {*all_fields(find_architecture("fd").settings), *FOREIGN_WORDS, *CONTROL_WORDS}
    return words | {*SHARED_RULES, *OWN_RULES, *FOREIGN_KEYS}


@cache
def our_source():
    folders = ("host", "dataset", "networks", "musubi_flux_dev", "docs/plugin_template")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_on_a_page_exists_and_every_test_that_it_names(page):
    named = [span for span in code_spans(page) if PATH.fullmatch(span)]
    wrong = []
    for span in named:
        place, _, test = span.partition("::")
        near = [ROOT / place, page.parent / place]
        found = next((path for path in near if path.exists()), None)
        if place in USERS_OWN:
            continue
        if found is None or (test and f"def {test}(" not in found.read_text(encoding="utf-8")):
            wrong.append(span)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_flag_and_name_on_a_page_is_one_of_ours(page):
    settings, source = known_settings(), our_source()
    wrong = []
    for span in code_spans(page):
        if assignment := ASSIGNMENT.fullmatch(span):
            known = assignment[1] in settings | source
        elif flag := FLAG.fullmatch(span):
            known = flag[1].removeprefix("no_") in settings | FLAGS_BESIDE_SETTINGS | set(FLAGS)
        elif NAME.fullmatch(span):
            known = span in settings | source | WORDS_OF_OTHERS | USERS_OWN
        else:
            continue
        if not known:
            wrong.append(span)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_another_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_example_is_read_and_only_files_are_missing(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    document = toml.loads(config.read_text(encoding="utf-8"))
    if document.keys() <= {"general", "datasets"}:
        assert parse_datasets(document, where=lambda key, index: key, bucket_step=16)
        return
    loaded = load_config([str(config)], prog="train.py")
    assert [problem.what for problem in problems_of(loaded) if "does not exist" not in problem.what] == []


def problems_of(config):
    try:
        check_job(config, processes=Processes(device=torch.device("cpu")))
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.fixture
def with_tiny_files(tmp_path, monkeypatch):
    """The real configuration with only its paths changed; returns the words of the command line."""
    monkeypatch.chdir(ROOT)
    files = find_architecture("fd").tiny(tmp_path / "models")
    own = {
        **files,
        "image_directory": draw_pictures(tmp_path / "pictures"),
        "cache_directory": tmp_path / "cache",
    }
    text = (ROOT / "toml" / "flux_dev.toml").read_text(encoding="utf-8")
    changed = PATH_LINE.sub(lambda line: f"{line[1]} = '{own[line[1]]}'", text)
    job = tmp_path / "flux_dev.toml"
    job.write_text(changed, encoding="utf-8")
    tokenizers = [f"--{name}={files[name]}" for name in ("tokenizer", "tokenizer2")]
    return [str(job), *tokenizers, "--output_dir", str(tmp_path / "out"), "--device", "cpu"]


def test_on_the_tiny_model_the_real_configuration_is_refused_for_its_number_of_blocks_alone(with_tiny_files):
    (problem,) = problems_of(load_config(with_tiny_files, prog="train.py"))
    assert problem.what == "blocks_to_swap = 25: this transformer has 6 blocks."


def test_with_so_many_blocks_as_there_are_the_real_configuration_passes_every_check(with_tiny_files):
    config = load_config([*with_tiny_files, "--blocks_to_swap", "6"], prog="train.py")
    assert problems_of(config) == []
    now = Progress(step=0, settings={}, dataset="", files={}, processes=1)
    assert decide_start(config.settings.output, now=now, total_steps=9).kind is StartKind.BEGIN


def test_the_real_configuration_has_the_founding_values():
    document = toml.loads((ROOT / "toml" / "flux_dev.toml").read_text(encoding="utf-8"))
    given = {
        key: value for table in document.values() if isinstance(table, dict) for key, value in table.items()
    }
    founding = {
        "blocks_to_swap": 25,
        "fp8_base": True,
        "fp8_scaled": True,
        "fp8_t5": True,
        "learning_rate": 8e-5,
        "network_dim": 16,
        "network_alpha": 16,
        "ip_noise_gamma": 0.2,
    }
    assert {name: given[name] for name in founding} == founding
    assert given["text_encoder2"].endswith("t5xxl_fp8_e4m3fn_scaled.safetensors")


def test_the_portrait_prompts_have_the_trigger_fixed_seeds_and_two_held_out():
    path = ROOT / "toml" / "prompts_portrait.txt"
    prompts = read_prompts(path)
    assert len(prompts) == 5
    assert all("TOK woman" in prompt.prompt for prompt in prompts)
    assert len({prompt.seed for prompt in prompts} - {None}) == 5
    assert {(prompt.steps, prompt.guidance) for prompt in prompts} == {(28, 3.5)}
    assert not any(prompt.notes for prompt in prompts)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.startswith("#") for line in lines if "Held out" in line] == [True, True]


def test_the_keys_of_the_dataset_page_are_those_of_the_dataset():
    text = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8").partition("## Pictures")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == {*SHARED_RULES, *OWN_RULES}


def test_the_table_of_prompt_flags_is_complete():
    text = (ROOT / "docs" / "samples.md").read_text(encoding="utf-8").partition("## Prompt files")[2]
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`--(\w+)`", rows)) == set(FLAGS)
    assert set(re.findall(r"`([a-z_]+)`", rows)) == {*KEYS, "bucket_step"}


def test_a_founding_line_is_open_exactly_when_something_of_it_is_not_yet_there():
    text = (ROOT / "docs" / "founding_lines.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- \[(.)\] (\d{3}-\d\d) (.+)", text, flags=re.MULTILINE)
    assert len({number for _, number, _ in lines}) == len(lines) == 181
    assert [number for box, number, said in lines if (box == " ") != ("not yet" in said)] == []
    assert [number for _, number, said in lines if "`" not in said and "not yet" not in said] == []


def test_the_page_on_resuming_names_every_setting_that_may_not_change():
    from host.states import FIXED

    text = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    paragraph = text.partition("What may not change")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) >= set(FIXED)


def test_the_naming_page_lists_the_conditioning_of_flux():
    variant = find_architecture("fd").default_variant
    text = (ROOT / "docs" / "naming.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in variant.conditioning)


def test_every_member_of_a_variant_is_explained_in_the_ten_steps():
    from host.architecture import Variant

    text = (ROOT / "docs" / "adding_an_architecture.md").read_text(encoding="utf-8")
    wanted = {field.name for field in fields(Variant)} - {"name"}
    assert [name for name in sorted(wanted) if f"`{name}`" not in text] == []
