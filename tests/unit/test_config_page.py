"""The page that documents all settings is made from them."""

from config_toy import ToySettings

from host.configuration_page import PAGE, page, write_page
from host.foreign_words import FOREIGN_WORDS
from host.registry import find_architecture
from host.settings import all_fields


def test_every_setting_and_every_foreign_word_has_a_row():
    text = page({"toy": ToySettings})
    for name in [*all_fields(ToySettings), *FOREIGN_WORDS]:
        assert f"\n| `{name}` |" in text


def test_a_row_tells_type_default_help_and_condition():
    text = page({"toy": ToySettings})
    assert "| `toy_level` | a whole number: at most 9 | 3 | A number. | `text_encoder is set` |" in text
    assert '| `loss_type` | a text: `l2`, `huber`, `smooth_l1` | "l2" |' in text
    assert "| `clip_l` | is `text_encoder` |  |" in text


def test_every_row_has_the_cells_of_its_head():
    for block in page({"toy": ToySettings}).split("\n\n"):
        rows = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_the_page_in_the_documentation_is_up_to_date():
    expected = page({"fd": find_architecture("fd").settings})
    assert PAGE.read_text(encoding="utf-8") == expected, "run:  python -m host.configuration_page"


def test_writing_the_page_takes_the_installed_architectures(tmp_path, monkeypatch):
    monkeypatch.setattr("host.configuration_page.PAGE", tmp_path / "page.md")
    monkeypatch.setattr("host.configuration_page.installed_architectures", lambda: {"config_toy:TOY": ""})
    write_page()
    assert "`toy_level`" in (tmp_path / "page.md").read_text(encoding="utf-8")
