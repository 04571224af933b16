"""What the files of one job's pictures say of how they were made: put together once, when the first is here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

from asyncgen.containers import Piece
from asyncgen.errors import InputError
from asyncgen.graph import Graph
from asyncgen.images import Format, Mark, Marks
from asyncgen.plan import Planner
from asyncgen.provenance import Level, Provenance, marked, provenance_of
from asyncgen.records import Want


@dataclass(frozen=True, slots=True)
class Marking:
    """How the pictures of a run are marked. `picture_names`: under which the job's input pictures were sent."""

    planner: Planner
    level: Level
    realm: str
    batch_name: str
    picture_names: Mapping[str, str]

    def marks(self, want: Want, request_id: str, seed: int, count: int) -> Marks:
        """The marks of a job's `count` pictures. They may be used on any thread."""

        @cache
        def provenance() -> Provenance:
            graph = self._graph(want, seed) if self.level == "full" else None
            return provenance_of(
                want,
                graph,
                request_id=request_id,
                seed=seed,
                batch=self.batch_name,
                realm=self.realm,
                level=self.level,
            )

        def mark(number: int, data: bytes, file_format: Format, width: int, height: int) -> tuple[Piece, ...]:
            return marked(data, file_format, (width, height), provenance().numbered(number, count))

        def marks(number: int) -> Mark:
            return partial(mark, number)

        return marks

    def _graph(self, want: Want, seed: int) -> Graph | None:
        """What was sent; None where the workflow is another one by now, or gone.

        An earlier process may have sent the pictures: then the graph has the names of their parameters.
        """
        names = {name: name for name in want.request.input_pictures} | dict(self.picture_names)
        try:
            self.planner.check_workflow(want.request, want.spec)
            return self.planner.graph(want.request, want.spec, seed, names)
        except InputError:
            return None
