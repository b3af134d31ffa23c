"""What can go wrong in training and is the user's to mend: one sentence each, no traceback on the command line."""


class TrainingError(Exception):
    """The text is one sentence that says what is wrong and what to do."""


class DataError(TrainingError):
    """The data set is missing, incomplete or damaged."""


class ArchitectureError(TrainingError):
    """The network can't be made for such images."""


class CheckpointError(TrainingError):
    """A checkpoint can't be read, or does not belong to what was asked."""


class ExportError(TrainingError):
    """The exported file does not compute what the network computes; nothing was written."""


class Interrupted(TrainingError):
    """A signal stopped the run; a checkpoint was written first."""


def is_lack_of_memory(exc: BaseException) -> bool:
    """Whether more memory was asked for than there is, which torch says in words alone."""
    told = ("can't allocate memory", "out of memory")
    return isinstance(exc, MemoryError) or (isinstance(exc, RuntimeError) and any(words in str(exc) for words in told))
