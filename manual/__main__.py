"""`python -m manual` writes docs/commands.md; `python -m manual FOLDER` writes man pages and completions below it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from manual.markdown import COMMANDS, commands_page
from manual.share import write_manual
from shoal.version import VERSION

if len(sys.argv) > 1:
    write_manual(Path(sys.argv[1]), VERSION, int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
else:
    COMMANDS.write_text(commands_page(), encoding="utf-8")
