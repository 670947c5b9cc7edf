"""Errors a user can act on, and how a command reports them."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable


class DataError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do."""


IMPLAUSIBLE = "unit or fill"
"""The kind of reason of images whose values do not fit their unit."""


class Unfit(DataError):
    """An image that cannot be taken.

    kind: the kind of reason, by which those left out are counted. advice: the end of the message, on an option of
    ingest that takes the image; fault: the message without it.
    """

    def __init__(self, kind: str, message: str, advice: str = "") -> None:
        super().__init__(message + advice)
        self.kind, self.fault, self.advice = kind, message, advice


class Echo(DataError):
    """The error of another rank of the run, which says it itself."""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
INTERRUPTED = 130  # the shell's status for SIGINT


def command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit: 0 or what it returns; 2 with one line on stderr for a `DataError`.

    A pipe closed by the reader (`... | head`) ends quietly. A file or folder that the system refuses, and a full disk,
    also under what is printed, end with their line. Started with closed streams (`>&-`), it prints nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    try:
        status = main() or 0
        sys.stdout.flush()
    except Echo:
        status = 2
    except DataError as error:
        tell(str(error))
        status = 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):  # torch's, on a CPU
            raise
        tell("out of memory: ask for smaller batches or sizes, or for fewer at a time")
        status = 2
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except OSError as error:
        if error.errno in FULL:
            tell(f"{error.strerror} for {error.filename or 'what is printed'}: make room")
            with contextlib.suppress(OSError):  # what it holds back has nowhere to go
                sys.stdout.close()
        elif error.filename is not None:
            tell(f"{error.filename}: {error.strerror}")
        else:
            raise
        status = 2
    sys.exit(status)


def tell(problem: str) -> None:
    """Print the line of an error, where stderr has room for it."""
    with contextlib.suppress(OSError):
        print("error: " + " ".join(problem.split()), file=sys.stderr, flush=True)
