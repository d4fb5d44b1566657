"""Strings that the fonts inside typst can show.

A PDF/A file may not hold a character without a glyph, and typst refuses to write one. The fonts it carries (Libertinus
Serif, New Computer Modern, DejaVu Sans Mono) cover the ranges below; any other character, control and bidirectional
characters among them, is shown by its code point.
"""

from __future__ import annotations

import re
import unicodedata

_RANGES = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x2B0, 0x2FF), (0x370, 0x3FF), (0x400, 0x45F), (0x1E00, 0x1EFF), (0x2000, 0x2027),
    (0x202F, 0x2040), (0x2044, 0x2052), (0x2054, 0x205F), (0x2070, 0x20BF), (0x2100, 0x211E), (0x2126, 0x214F),
    (0x2190, 0x22FF), (0x25A0, 0x25FF), (0x27C0, 0x27FF),
)  # fmt: skip
_GROUPED = re.compile(r"(?<!\S)\d{1,3}(?:,\d{3})+(?!\d|,\d)")  # 2,800,000
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs"}


def _shown(character: str) -> bool:
    code = ord(character)
    return any(a <= code <= b for a, b in _RANGES) and unicodedata.category(character) not in _HIDDEN


def legible(text: str, lines: bool = False) -> str:
    r"""`text` with every character that could not be shown as `\u{65e5}`; line breaks stay only where `lines`.

    Except there, thousands are divided by thin spaces, as in all numbers of a report.
    """
    if lines:
        return "\n".join(_legible(line) for line in text.splitlines())
    return _legible(_GROUPED.sub(lambda m: m[0].replace(",", "\u202f"), text))


def _legible(text: str) -> str:
    spaced = " ".join(text.split("\n")).replace("\r", " ").replace("\t", " ")
    return "".join(c if _shown(c) else f"\\u{{{ord(c):x}}}" for c in unicodedata.normalize("NFC", spaced))
