"""The errors deconvseg raises on purpose: each is one line that names the thing, the fault and the cure."""


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
