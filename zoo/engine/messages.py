"""Errors of libraries, told in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it says nothing; at most 160 characters."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]
