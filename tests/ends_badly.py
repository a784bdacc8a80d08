"""``torchrun -m tests.ends_badly WORDS``: ``htdg WORDS`` whose processes crash at their end.

All but the first, which takes its time to save what it trained.
"""

import atexit
import os
import sys
import time

from htdg import HTDGDetector
from htdg.commands.cli import main

if os.environ["RANK"] == "0":
    save = HTDGDetector.save

    def slowly(self, folder):
        time.sleep(2)
        save(self, folder)

    HTDGDetector.save = slowly
else:
    atexit.register(os.abort)
sys.exit(main())
