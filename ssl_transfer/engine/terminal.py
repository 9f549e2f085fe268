"""Print messages, with control characters escaped and credentials hidden: the one way to the terminal.

Tables, progress bars and parsing errors come from libraries, and have their own boundary: `console/formatting.py`,
`console/progress.py`, `config.py`. Tracebacks and warnings have theirs in `console/streams.py`.
"""

import sys

from .printable import Drawn, one_line
from .redaction import redacted


def say(*lines: str, error: bool = False) -> None:
    """Print lines; a newline inside a line comes from a value and is escaped.

    Args:
        lines: of the message. `Drawn` text stays as it is.
        error: print to the error stream, which stays visible if the output is piped.
    """
    text = "\n".join(line if isinstance(line, Drawn) else one_line(line) for line in lines)
    print(redacted(text), file=sys.stderr if error else sys.stdout, flush=True)
