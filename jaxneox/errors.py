"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Wrong input from outside: one line that says what, where, what was expected and what to do.

    The command line prints it without a traceback and exits with `status`: 2, a user's mistake
    that another start repeats, unless a subclass says otherwise.
    """

    status = 2
