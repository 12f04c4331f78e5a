"""The errors deconvseg raises on purpose: each is one line that names the thing, the fault and the cure."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")
"""As torch says it: of its own allocators on GPUs, of that on the processor, and of cuBLAS's and cuDNN's."""


class DeconvSegError(Exception):
    """Base of every error a user can cause or cure. `str(error)` is one line fit to be printed."""


class InputError(DeconvSegError):
    """A photo, mask or list that cannot be read or used."""


class OutputError(DeconvSegError):
    """A result that cannot be written where it was asked for."""


class WeightsError(DeconvSegError):
    """A network, forest or registry file that is missing, damaged or of another kind."""


class DataError(DeconvSegError):
    """A data set that does not have the layout or the labels it should."""


class UsageError(DeconvSegError):
    """Options that contradict each other, or nothing to do."""


class MissingDependencyError(DeconvSegError):
    """A library that this step needs is not installed, or two installed ones clash."""


class WorkerError(DeconvSegError):
    """A worker that died again and again at one piece of work, or a cluster that does not work."""


class ExportError(DeconvSegError):
    """An exported network that does not answer as the one it was made from."""


def one_line(text: str) -> str:
    """The text with line ends and other control characters, which file names may hold, made visible."""
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


def reason(error: BaseException) -> str:
    """What another library's error says, on one line; its name if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def describe(error: BaseException, title: str = "") -> str:
    """What went wrong, on one line; our own errors say themselves to what, of others it is `title`."""
    if isinstance(error, DeconvSegError):
        return one_line(str(error))
    if is_out_of_memory(error):
        line = "out of memory; try a smaller photo, smaller batches or fewer regions"
    elif isinstance(error, ImportError):
        library = error.name or "a library"
        line = f"{library} does not load ({reason(error)}); see what 'deconvseg doctor' says"
    else:
        first, _, _ = str(error).strip().partition("\n")
        line = f"{type(error).__name__}: {first}"
    return one_line(f"{title}: {line}" if title else line)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on any device, raised this for want of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in _NO_MEMORY)
    )
