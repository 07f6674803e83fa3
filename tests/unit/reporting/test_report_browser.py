"""The page as a reader has it: in a real browser, by keyboard, on a phone, in the dark, on paper."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echodfkd.reporting import published
from echodfkd.reporting.page.report import write_report
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.helpers.chromium import Browser, chromium_path
from tests.unit.reporting.test_reporting import fake_case, fake_config, fake_run

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="no chromium here: apt-get install chromium")

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return Path(write_report(fake_run(folder, with_overlay=True), files=False))


def column(browser: Browser, table: str, number: int) -> list[str]:
    rows = f"[...document.querySelectorAll('#table-{table} tbody tr')]"
    return browser.evaluate(f"{rows}.map(row => row.cells[{number}].querySelector('b, code').textContent)")


def test_it_opens_without_an_error_or_a_request(browser, page):
    browser.view(1300)
    browser.open(page)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("data:", page.as_uri()))] == []
    drawn = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().height,"
        " s.querySelectorAll('path').length])"
    )
    assert len(drawn) == 15
    assert all(height > 80 and paths > 5 for height, paths in drawn)
    assert browser.evaluate("document.scripts.length") == 1


def test_a_foreign_script_does_not_run(browser, page, tmp_path):
    text = page.read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    (tmp_path / "page.html").write_text(text)
    browser.open(tmp_path / "page.html")
    assert browser.evaluate("document.title") == "fake-run · EchoDFKD"
    assert any("Content Security Policy" in error for error in browser.errors)


def test_tables_sort_by_keyboard_and_say_so(browser, page):
    browser.view(1300)
    browser.open(page)
    button = "document.querySelector('#table-scores th[data-column=\"1\"] button')"
    order = column(browser, "scores", 1)
    browser.evaluate(f"{button}.focus()")
    browser.press("Enter", 13, "\r")
    rising = column(browser, "scores", 1)
    assert rising == sorted(order, key=float)
    assert browser.evaluate(f"{button}.closest('th').getAttribute('aria-sort')") == "ascending"
    assert "smallest first" in browser.evaluate("document.querySelector('#scores [aria-live]').textContent")
    browser.press(" ", 32, " ")
    assert column(browser, "scores", 1) == rising[::-1]
    assert (
        len(browser.evaluate("[...document.querySelectorAll('th[aria-sort=descending]')].map(h => h.dataset.column)"))
        == 1
    )


def test_videos_play_and_stop_by_keyboard(browser, page):
    browser.view(1300)
    browser.open(page)
    browser.evaluate("document.querySelector('video').scrollIntoView({block: 'center', behavior: 'instant'})")
    moved = (
        "new Promise(done => { const v = document.querySelector('video'); let n = 0; const look = setInterval(() => {"
    )
    moved += " if (v.currentTime > 0.05 || ++n > 200) { clearInterval(look); done(v.currentTime); } }, 50); })"
    assert browser.evaluate(moved) > 0.05
    assert browser.evaluate("document.querySelector('video').videoHeight") == 4 * 56 + 56
    browser.evaluate("document.querySelector('.player button').focus()")
    browser.press("Enter", 13, "\r")
    said = "new Promise(done => { const b = document.querySelector('.player button'), look = setInterval(() => {"
    said += " if (b.textContent === 'Play') { clearInterval(look); done(1); } }, 50); })"
    assert browser.evaluate(said) == 1  # the button changes with the video's own event, a moment later
    assert browser.evaluate("document.querySelector('video').paused") is True


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser, page):
    browser.view(1300)
    browser.open(page)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the content"
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1300, False), (1300, True)])
def test_nothing_is_cut_off_and_axe_finds_nothing_serious(browser, page, width, dark):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed: see setup.cfg, [dev]")
    browser.view(width, dark=dark)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(255, 255, 255)") != dark
    browser.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text() + "; 0")
    found = json.loads(browser.evaluate("axe.run(document).then(r => JSON.stringify([r.violations, r.passes.length]))"))
    assert found[1] > 20
    bad = [(v["id"], v["nodes"][0]["html"][:200]) for v in found[0] if v["impact"] in SERIOUS]
    assert bad == []


def test_it_prints_light_whatever_the_theme(browser, page):
    browser.view(1000, dark=True, media="print")
    browser.open(page)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('details:not([open], .screen)').length") == 0
    assert browser.evaluate("getComputedStyle(document.querySelector('.screen')).display") == "none", "the whole config"
    assert browser.evaluate("document.querySelectorAll('.options li').length") > 2
    texts = "[...document.querySelectorAll('main p, main figcaption, main dd, main li')]"
    sizes = f"{texts}.map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert max(browser.evaluate(sizes)) <= 11, "a caption is no larger than the text"
    hidden = "[...document.querySelectorAll('video, .player')].every(e => getComputedStyle(e).display == 'none')"
    assert browser.evaluate("document.querySelectorAll('video').length") > 0
    assert browser.evaluate(hidden)
    browser.evaluate(
        "document.querySelectorAll('.overlays figure').forEach(f => { for (let i = 0; i < 5; i++)"
        " f.after(f.cloneNode(true)) })"
    )  # six cases, as the demo has: a picture each and no black box
    pages = len(re.findall(rb"/Type\s*/Page\b", browser.pdf()))
    assert 3 <= pages <= 15


def test_published_names_stand_in_a_panel_of_their_own_and_do_not_overlap(browser, page):
    for width in (390, 1280, 1920):
        browser.view(width)
        browser.open(page)
        boxes = json.loads(
            browser.evaluate(
                "JSON.stringify([...document.querySelectorAll('#figure-pareto_dice_all_parameters text')].map(t => {"
                "const r = t.getBoundingClientRect(); return [t.textContent, r.left, r.top, r.right, r.bottom]}))"
            )
        )
        known = {found.name for found in (*published.METHODS, *published.STUDENTS)}
        names = [box for box in boxes if box[0] in known]
        assert len(names) >= 16
        title = next(box for box in boxes if box[0].startswith("another data set"))
        assert all(box[2] > title[2] for box in names)
        for one, other in itertools.combinations(names, 2):
            apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
            assert apart, (width, one, other)
    browser.view(1300)
    browser.view(1300)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_students_fifty_checkpoints_a_thousand_cases(browser, tmp_path):
    """Eight hundred thousand scores of each metric: the page opens in under 3 s and weighs less than 15 MB."""
    storage, students = RunStorage(str(tmp_path)), [f"c{k}{n}" for k in range(1, 5) for n in range(1, 5)]
    family = {name: {"blocks": int(name[1]), "layers": int(name[2])} for name in students}
    storage.write("config.yaml", json.dumps({**fake_config(), "students": family}).encode())
    (tmp_path / "scores").mkdir()
    rng, clips = np.random.default_rng(0), [f"case-{number:04d}" for number in range(1000)]
    metrics = {"dice_all": "truth", "afd_ed": "truth", "afd_es": "truth", "judge_score": "judge"}
    for name in (*students, ""):
        keys = itertools.product(range(100, 5001, 100) if name else [-1], metrics, clips)
        steps, of_metric, of_clip = (pa.array(values) for values in zip(*keys, strict=True))
        count = len(steps)
        columns = {"clip_id": of_clip, "step": steps, "metric": of_metric, "value": pa.array(rng.beta(9, 1, count))}
        columns |= {"student": pa.array([name] * count), "reference": pa.array([metrics[m.as_py()] for m in of_metric])}
        columns |= {"threshold": pa.array([0.5] * count), "n": pa.array([3] * count)}
        empty = {key: pa.array([""] * count) for key in ("teacher_id", "unit")}
        table = pa.table({**columns, **empty}).select(schemas.SCORE_SCHEMA.names)
        pq.write_table(table.cast(schemas.SCORE_SCHEMA), tmp_path / "scores" / f"part-{name or 'teacher'}.parquet")
    case = schemas.case_row(fake_case(0))
    cases = [
        {**case, "clip_id": clip, "index": place, "ef_percent": 20.0 + place / 20} for place, clip in enumerate(clips)
    ]
    storage.write_table("cases.parquet", cases, schemas.CASE_SCHEMA)
    found = Path(write_report(storage, files=False))
    assert found.stat().st_size < 15e6
    browser.view(1300)
    assert browser.open(found) < 3
    assert browser.errors == []
    assert len(column(browser, "scores", 0)) == 17
