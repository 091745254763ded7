"""The documentation's pages are all in the site's navigation, and their links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")


def pages() -> list[Path]:
    return sorted(path for path in DOCS.rglob("*") if path.suffix in (".md", ".ipynb"))


def navigated(entry: Any) -> Iterator[str]:
    """Yield the paths in a navigation, which holds titles, lists and pages."""
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from navigated(inner)


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings of a page have in the site."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_to_pages_of_the_site(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        there = (page.parent / target).resolve() if target else page
        assert there.is_file(), f"{target} does not exist"
        assert there.is_relative_to(DOCS.resolve()) or there == page, f"{target} is outside the site"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target} has no heading for #{anchor}"


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    settings = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(navigated(settings["nav"])) == [str(page.relative_to(DOCS)) for page in pages()]
