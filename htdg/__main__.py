"""``python -m htdg``: the same as the command ``htdg``."""

import sys

from htdg.commands.cli import main

sys.exit(main())
