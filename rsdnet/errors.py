"""Errors a user can act on, and how a command reports them."""

import sys
from collections.abc import Callable


class DataError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do."""


class Echo(DataError):
    """The error of another rank of the run, which says it itself."""


def command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit: 0 or what it returns; 2 with one line on stderr for a `DataError`.

    A pipe closed by the reader (`... | head`) ends quietly.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except Echo:
        status = 2
    except DataError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        status = 2
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status)
