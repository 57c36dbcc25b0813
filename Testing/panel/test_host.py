"""The stand-in host itself: exact geometry, PythonQt's strictness, real clicks, pictures."""

from __future__ import annotations

import pytest


def test_properties_are_values(panel) -> None:
    import qt

    b = qt.QPushButton("a")
    assert b.text == "a"
    with pytest.raises(TypeError):
        b.text()
