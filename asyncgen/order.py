"""In which order wanted images are started: those that need the same model and LoRAs one after the other. Pure.

A worker keeps what it has loaded. A queue is served by whichever worker is free, so there is one way to have them load
little: one group of images at a time, each worker loading its LoRAs once. Several groups at once would be mixed on
every worker, unless all jobs took equally long.

What must be loaded comes first in what is compared: a model takes longer to load than LoRAs do, so a group is followed
by another of its model where there is one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Final, Generic, TypeVar

from asyncgen.loras import Lora
from asyncgen.records import Spec

T = TypeVar("T")

#: How many wanted images are looked at ahead; in memory they take about 5 MB.
WINDOW: Final = 2048
#: No image is started so many places after its own, whatever comes behind it.
LATEST: Final = 2 * WINDOW
#: From so many places after its own an image has a claim to be next once a group has had its shortest turn.
_LATE: Final = WINDOW
_SHORTEST_TURN: Final = 64


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have loaded to make an image: LoRAs with their strengths, in the order they are applied."""

    model: str
    loras: tuple[Lora, ...]


def needs_of(spec: Spec) -> Needs:
    """What a worker must load for one job."""
    return Needs(spec.model, spec.loras)


@dataclass(slots=True, eq=False)
class _Group(Generic[T]):
    """What is there of one group: places and things, in the order they were taken in."""

    needs: Needs
    things: deque[tuple[int, T]] = field(default_factory=deque)


class Grouping(Generic[T]):
    """Takes things in one order and gives them back in another, grouped by what they need.

    A group is stayed with for as long as something of it is there. Unfairness is bounded: the thing that was added
    `n` others behind is taken before `n + LATEST` others are (and, where never more than `WINDOW` are in here, after at
    least `n - WINDOW` were). Things of equal needs keep their order. All operations take the same time, however many
    are in here.
    """

    def __init__(self) -> None:
        self._groups: dict[Needs, _Group[T]] = {}
        # Places in the order they were taken in, and the group of what is there; of all, and of each model.
        self._waiting: OrderedDict[int, _Group[T]] = OrderedDict()
        self._of_model: dict[str, OrderedDict[int, _Group[T]]] = {}
        self._added = self._taken = self._turn = 0
        self._present: _Group[T] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return (thing for group in self._groups.values() for _, thing in group.things)

    def add(self, thing: T, needs: Needs) -> None:
        """Take one in."""
        place, self._added = self._added, self._added + 1
        if (group := self._groups.get(needs)) is None:
            group = self._groups[needs] = _Group(needs)
        group.things.append((place, thing))
        self._waiting[place] = group
        self._of_model.setdefault(needs.model, OrderedDict())[place] = group

    def take(self) -> T:
        """Give the next one back. There must be one."""
        group = self._next()
        self._turn = self._turn + 1 if group is self._present else 1
        self._present = group
        self._taken += 1
        return self._removed(group)

    def extract(self, is_meant: Callable[[T], bool]) -> list[tuple[T, Needs]]:
        """Take out all that is meant, in the order it was taken in; looks at all that is here."""
        found: list[tuple[int, T, Needs]] = []
        for group in tuple(self._groups.values()):
            meant = [(place, thing) for place, thing in group.things if is_meant(thing)]
            places = {place for place, _ in meant}
            group.things = deque(entry for entry in group.things if entry[0] not in places)
            for place, thing in meant:
                self._forget(place, group)
                found.append((place, thing, group.needs))
        self._taken += len(found)
        return [(thing, needs) for _, thing, needs in sorted(found, key=itemgetter(0))]

    def _next(self) -> _Group[T]:
        present, oldest = self._present, next(iter(self._waiting))
        late_by = self._taken - oldest
        if present is None or late_by >= LATEST:
            return self._waiting[oldest]
        if present.things and (late_by < _LATE or self._turn < _SHORTEST_TURN):
            return present
        same_model = self._of_model.get(present.needs.model) if late_by < _LATE else None
        return next(iter(same_model.values())) if same_model else self._waiting[oldest]

    def _removed(self, group: _Group[T]) -> T:
        place, thing = group.things.popleft()
        self._forget(place, group)
        return thing

    def _forget(self, place: int, group: _Group[T]) -> None:
        of_model = self._of_model[group.needs.model]
        del self._waiting[place], of_model[place]
        if not group.things:
            self._groups.pop(group.needs, None)
        if not of_model:
            del self._of_model[group.needs.model]


class Prioritized(Generic[T]):
    """A `Grouping` for each priority: of what is there, the highest is given back first.

    What `Grouping` promises holds among things of one priority; others wait for as long as higher ones come.
    """

    def __init__(self) -> None:
        self._levels: dict[int, Grouping[T]] = {0: Grouping()}

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._levels.values())

    def add(self, thing: T, needs: Needs, priority: int = 0) -> None:
        """Take one in."""
        if priority not in self._levels:
            self._levels[priority] = Grouping()
        self._levels[priority].add(thing, needs)

    def take(self) -> T:
        """Give the next one back. There must be one."""
        priority = max(priority for priority, level in self._levels.items() if level)
        thing = self._levels[priority].take()
        if priority and not self._levels[priority]:
            del self._levels[priority]
        return thing

    def prefer(self, is_meant: Callable[[T], bool], priority: int) -> int:
        """Give all that is meant this priority, where it has a lower one; how many those are."""
        lower = [level for its_own, level in self._levels.items() if its_own < priority]
        raised = [found for level in lower for found in level.extract(is_meant)]
        for thing, needs in raised:
            self.add(thing, needs, priority)
        return len(raised)
