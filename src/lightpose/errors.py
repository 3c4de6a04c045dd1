"""The one exception that means "the input is wrong, and here is what to do"."""


class UserError(Exception):
    """A mistake in what the user gave: expected, actual, fix, in one paragraph.

    The commands print it without a traceback and exit with code 1.
    """
