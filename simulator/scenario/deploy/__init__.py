"""From a plan to the arguments of an engine, and from arguments to a scenario.

One module per engine says what its flags mean; ``flags`` reads them by a table, ``shell`` reads and writes scripts,
``writing`` and ``reading`` do the rest.
"""

from __future__ import annotations

from simulator.scenario.deploy.reading import Imported, import_arguments
from simulator.scenario.deploy.writing import ENGINES, Exported, export_plan

__all__ = ["ENGINES", "Exported", "Imported", "export_plan", "import_arguments"]
