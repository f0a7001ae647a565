"""Every setting is read somewhere in the product's code, and not only named in a comment or a condition."""

import ast

import pytest
from jobs import ROOT

from host.settings import all_fields
from musubi_flux_dev.architecture import FluxDevSettings

PACKAGES = ("host", "dataset", "networks", "musubi_flux_dev")
FIELDS = all_fields(FluxDevSettings)
CONDITIONS = ("setting_is", "setting_given")
"""What these calls name is asked for by the rule of another setting."""


def reads(source):
    """Return the attributes that a module reads, and the names by which it looks things up."""
    found = set()
    waiting = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if _is_no_reading(node):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        waiting.extend(ast.iter_child_nodes(node))
    return found


def _is_no_reading(node):
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_condition = isinstance(node, ast.Call) and getattr(node.func, "id", "") in CONDITIONS
    is_rule = isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "resolved"
    is_place = isinstance(node, ast.keyword) and node.arg == "setting"
    return is_text or is_condition or is_rule or is_place


READ = {
    name
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "foreign_words.py"  # it only names the settings that other words stand for
    for name in reads(path.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_read_by_the_product(name):
    assert name in READ


@pytest.mark.parametrize(
    "source",
    [
        '"""Reads x.forgotten."""\n# settings.forgotten\n',
        'message = "forgotten = 3 is refused"\n',
        "x.forgotten = 1\nforgotten: int = setting(1)\n",
        'condition = setting_is("forgotten", 1)\nrule = lambda resolved: resolved["forgotten"]\n',
        'Problem(what="no", setting="forgotten")\n',
    ],
)
def test_naming_a_setting_is_not_reading_it(source):
    assert "forgotten" not in reads(source)


@pytest.mark.parametrize("source", ["print(settings.found)", 'paths["found"]', 'table = {"found": 1}'])
def test_what_counts_as_reading(source):
    assert "found" in reads(source)
