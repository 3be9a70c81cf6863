"""What holds for every test, however the suite was started."""

from __future__ import annotations

import signal

# Under nohup a hang-up is ignored, here and in every process that tests start: those that send one would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
