"""The optional libraries of the report, asked for in one place."""

import re
from types import ModuleType

from errata.errors import MissingExtraError

__all__ = ["altair", "vega_script", "vl_convert"]


def altair() -> ModuleType:
    """Return altair, or say how to install it."""
    try:
        import altair as found
    except ImportError as e:
        raise MissingExtraError("report", "report") from e
    return found


def vl_convert() -> ModuleType:
    """Return vl_convert, or say how to install it."""
    try:
        import vl_convert as found
    except ImportError as e:
        raise MissingExtraError("report", "report") from e
    return found


def vega_script() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script without any address outside the page.

    The addresses it comes with are a link to an editor, a note in a warning, and the name of a schema; names of XML
    namespaces stay, nothing is fetched from them.
    """
    script = str(vl_convert().javascript_bundle())
    script = re.sub(r"https://(?:github\.com|vega\.github\.io)(/[\w./-]*)", r"\1", script)
    return script.replace("</script", "<\\/script")
