"""The end of a program in which calls are still under way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path


class Ending(unittest.TestCase):
    def test_a_program_may_end_while_calls_that_it_gave_up_go_on(self) -> None:
        program = Path(__file__).with_name("ending.py")
        # From before they begin to after they have.
        for moment in range(10):
            with tempfile.TemporaryDirectory() as home:
                ended = subprocess.run(
                    [sys.executable, program, home, str(moment * 0.015)],
                    capture_output=True, text=True, timeout=60
                )
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
