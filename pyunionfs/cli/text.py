"""Untrusted text on its way to a terminal."""

import os


def printable(text: str) -> str:
    """A name of a layer, unable to end its line or to control the terminal: what is odd in it is escaped."""
    return "".join(
        char if char.isprintable() else os.fsencode(char).decode("latin-1").encode("unicode_escape").decode()
        for char in text
    )
