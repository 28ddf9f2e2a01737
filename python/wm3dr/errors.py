"""Exceptions of wm3dr beyond Python's own."""


class ModelError(ValueError):
    """A face model or an encoder is broken, or the two do not belong together.

    Missing files are `FileNotFoundError`; wrong arguments are `TypeError` or `ValueError`.
    """
