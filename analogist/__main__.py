"""`python -m analogist` is the command `analogist`."""

import sys

from analogist.cli.main import main

sys.exit(main())
