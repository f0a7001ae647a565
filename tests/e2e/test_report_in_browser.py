"""The report opens in a real browser, wide and narrow, light and dark: complete, silent and by itself."""

import pytest
from browser import open_browser, skip_without_browser
from jobs import train, write_job

PROMPTS = "a spot --w 64 --h 64 --s 1\na <i>wide</i> 'spot' & more --w 128 --h 64 --s 1\n"
LONG = "word" * 60
"""A caption without a place to break it."""
MISSING = "[...document.images].filter(one => !one.complete || one.naturalWidth === 0).length"
WIDTHS = "[document.documentElement.scrollWidth, window.innerWidth]"
OUTSIDE = """[...document.querySelectorAll('main *')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.right > window.innerWidth + 1 && !one.closest('.scroll, .samples');
}).map(one => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser():
    skip_without_browser()
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    (folder / "prompts.txt").write_text(PROMPTS)
    job = write_job(
        folder,
        max_train_steps=30,
        sample_prompts=str(folder / "prompts.txt"),
        sample_every_n_steps=3,
        validate_every_n_steps=5,
        training_comment=LONG,
        mixed_precision="no",
    )
    (folder / "pictures" / "picture_0.txt").write_text(LONG)
    (folder / "pictures" / "picture_1.txt").write_text(
        "<img src=x.png onerror=alert(1)></td><script>1</script>"
    )
    assert train(job) == 0
    return folder / "out" / "lora_report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_silent_and_as_wide_as_the_window(browser, page, width, dark):
    browser.forget()
    browser.show(page, width=width, dark=dark)
    assert browser.value("document.images.length") == 2 * (9 + 4) + 5
    assert browser.value(MISSING) == 0
    assert browser.console() == []
    asked = browser.requests()
    assert page.resolve().as_uri() in asked
    assert all(address.startswith("data:") or address == page.resolve().as_uri() for address in asked)
    there, window = browser.value(WIDTHS)
    assert there <= window
    assert browser.value(OUTSIDE) == []


def test_light_and_dark_are_both_set_and_text_stands_out_in_each(browser, page):
    papers = []
    for dark in (False, True):
        browser.show(page, width=1280, dark=dark)
        style = "getComputedStyle(document.body)"
        paper, ink = (browser.value(f"{style}.{name}") for name in ("backgroundColor", "color"))
        papers.append(paper)
        assert contrast(paper, ink) > 7
        for look in ("soft", "good"):
            shown = browser.value(f"getComputedStyle(document.querySelector('.{look}')).color")
            assert contrast(paper, shown) > 4.5, (look, dark)
    assert papers[0] != papers[1]


def contrast(one, other):
    """Return the contrast of two colours as WCAG 2.2 has it, 1 to 21."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_folded_parts_open_without_a_script(browser, page):
    browser.show(page, width=390)
    assert browser.value("document.scripts.length") == 0
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    there, window = browser.value(WIDTHS)
    assert there <= window
    assert "torch==" in browser.value("document.querySelector('.packages').innerText")


def test_the_test_notices_a_page_that_is_broken(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text(
        '<body><main><img src="nowhere.png"><div style="width:3000px">wide</div></main>'
        "<script>console.error('said')</script></body>"
    )
    browser.forget()
    browser.show(page, width=390)
    assert browser.value(MISSING) == 1
    assert any("said" in message for message in browser.console())
    assert any(address.endswith("nowhere.png") for address in browser.requests())
    assert browser.value(OUTSIDE)
