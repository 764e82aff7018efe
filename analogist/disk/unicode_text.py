"""Texts and names as systems hand them over: bytes that are not UTF-8, and letters stored in two ways."""

import unicodedata


def text_problem(text: str) -> str | None:
    """What is wrong with a text that cannot be written as UTF-8, for a message that begins with what it is; None where nothing is.

    Such a text holds half of a character ("lone surrogate"): from bytes that are not UTF-8 on a command line, or from an escape such
    as \\ud83d alone in JSON.
    """
    at = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if at is None:
        return None
    return f"is not valid Unicode text at character {at + 1}: {text[max(at - 20, 0) : at + 20]!a}; give it as UTF-8"


def same_name(name: str) -> str:
    """A name in one form (Unicode's NFC), so that names that read alike are equal. An accented letter is stored as one character
    (NFC) or as a letter and its accent (NFD, as on a Mac).
    """
    return unicodedata.normalize("NFC", name)
