"""The one kind of error that is the user's to mend: shown as a single line by the command, never as a traceback."""


class InputError(ValueError):
    """What is wrong, where, and what to do, in one line."""
