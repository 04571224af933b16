"""A truth that does not hold."""


class BrokenError(Exception):
    """The message says which, with what is needed to see it."""


def hold(truth: object, words: object) -> None:
    """Raises `BrokenError` with these words, unless it is true."""
    if not truth:
        raise BrokenError(str(words))
