"""Run the `dbmazz` command as `python -m dbmazz_core.cli`, where its script is not on the path."""

import sys

from dbmazz_core.cli.run import main

sys.exit(main())
