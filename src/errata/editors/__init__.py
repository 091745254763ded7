"""Editing methods: each one file, all from the same parts."""

from errata.editors.base import Editor
from errata.editors.registry import editors, resolve_settings
from errata.editors.settings import EditorSettings

__all__ = ["Editor", "EditorSettings", "editors", "resolve_settings"]
