"""The report in a real browser: it draws, it is quiet, it asks for nothing, and its brush moves every chart."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from errata.report.compare import compare
from errata.report.page import report
from fake_run import make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path; install one to see the report drawn"),
]


def drawn(page: Path, profile: Path, script: str = "") -> tuple[str, str]:
    """Return the page's elements after its scripts ran, and what it wrote to the console."""
    assert BROWSER
    if script:
        page = shutil.copy(page, page.with_name("probed.html"))
        body, end = page.read_text(encoding="utf-8").rsplit("</body>", 1)
        page.write_text(f"{body}<script>{script}</script></body>{end}", "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    options += ["--virtual-time-budget=20000", "--enable-logging=stderr", "--window-size=1280,900", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, page.as_uri()], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "rome", subject="<script>document.body.dataset.evil = 1</script>")


def test_charts_are_drawn_without_a_word_to_the_console(run: Path, tmp_path: Path) -> None:
    page, console = drawn(report(run)[0], tmp_path)
    assert console == ""
    assert 'data-drawn="9"' in page
    assert "data-evil" not in page
    charts = re.findall(r'<div class="chart[^"]*" id="([\w-]+)".*?</svg>', page, re.DOTALL)
    assert len(charts) == 9
    assert page.count('class="mark-line role-mark') >= 9
    assert page.count("<path") > 100
    outside = re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    assert outside == []


def test_the_brush_moves_every_chart_and_the_table_answers(run: Path, tmp_path: Path) -> None:
    script = """
    const wait = setInterval(async () => {
      if (!document.body.dataset.drawn) return;
      clearInterval(wait);
      const width = views.overview.signal("width");
      await views.overview.signal("brush_x", [0, width / 2]).runAsync();
      await new Promise((done) => setTimeout(done, 500));
      const shown = ["proficiency", "drift-relative"].map((n) => Math.round(views[n].signal("last")));
      document.body.dataset.last = shown.join(" ");
      document.body.dataset.range = byId("range").textContent;
      byId("marked").click();
      document.body.dataset.rows = [...document.querySelectorAll("#edits tbody tr")].filter((r) => !r.hidden).length;
      byId("marked").click();
      const heads = document.querySelectorAll("#edits th button");
      heads[0].click(); heads[0].click();
      document.body.dataset.top = document.querySelector("#edits tbody tr").cells[0].textContent;
    }, 100);
    """
    page, console = drawn(report(run)[0], tmp_path, script)
    assert console == ""
    assert 'data-last="100 100"' in page
    assert 'data-range="Edits 0 to 100"' in page
    assert 'data-rows="1"' in page
    assert 'data-top="200"' in page


def test_a_comparison_is_drawn(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "memit", collapse=None, method="memit", n=100, dead=True)
    made, _, _ = compare([run, other], tmp_path / "compare.html")
    page, console = drawn(made, tmp_path / "profile")
    assert console == ""
    assert re.search(r'data-drawn="1[0-9]"', page)
