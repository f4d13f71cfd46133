"""`python -m jaxneox.preprocess --help`; a user's errors in one line and with status 2."""

import signal
import sys
from collections.abc import Sequence

from jaxneox.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    from jaxneox.preprocess.run import run

    try:
        run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
