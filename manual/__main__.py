"""`python -m manual` writes what docs/ has of the code; `python -m manual FOLDER`, man pages and completions."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from manual.pages import write
from manual.share import write_manual
from shoal.version import VERSION

if len(sys.argv) > 1:
    write_manual(Path(sys.argv[1]), VERSION, int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
else:
    write()
