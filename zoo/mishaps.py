"""What errors of libraries say: in one line, and whether memory ran out, for which each has words of its own."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it says nothing; at most 160 characters."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory, or the address space that `ulimit -v` leaves, ran out.

    protobuf's EncodeError says nothing: of a graph that PyTorch has just made, memory is all that can fail.
    """
    signs = (
        "out of memory",
        "allocate memory",
        "failed to allocate",
        "bad_alloc",
        "bad allocation",
        "failed to map segment",
    )
    named = isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "EncodeError")
    return named or any(sign in str(error).lower() for sign in signs)
