"""The one error of this package."""


class ImageError(ValueError):
    """An archive, an image or a layer is not what it should be.

    The message is one line that names the file, the entry and what is wrong with it; names that come from
    an archive are shown with ``repr`` so that a hostile one cannot write to the terminal. Trouble of this
    machine (no space, no permission) stays the ``OSError`` it is.
    """


def show(name: bytes | str) -> str:
    """A name from an archive, fit for a message: quoted, escaped, and cut when absurdly long."""
    text = repr(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)
    return text if len(text) <= 120 else text[:80] + "..." + text[-30:]
