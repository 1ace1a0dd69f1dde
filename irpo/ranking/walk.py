"""The walk of constrained decoding: which tokens may come next so that the answer stays a permutation."""

from __future__ import annotations

from irpo.scoring.tokens import EncodedList


class Walk:
    """A path through the complete answers of a list: head, the body of an unplaced candidate, head, body, ...

    Where there is a choice, the bodies of the unplaced candidates form a trie and `_alive` are those that agree with
    the tokens so far. Where one body is the beginning of another and a token could follow either, the longer one goes
    on: a text has one reading. Of candidates with the same body the first is placed first.
    """

    def __init__(self, item: EncodedList) -> None:
        self.item = item
        self._placed: list[int] = []
        self._forced: list[int] = []  # tokens that come before the next choice; the next one stands last
        self._alive: list[int] = []
        self._depth = 0  # tokens that the bodies alive have in common with the path
        self._begin()

    @property
    def done(self) -> bool:
        """Whether the order is known: at most one candidate is left."""
        return len(self._placed) >= len(self.item.bodies) - 1

    @property
    def rank(self) -> int:
        """The rank that the next choice decides, counted from 0: where there is a choice, the candidates placed."""
        return len(self._placed)

    @property
    def order(self) -> tuple[int, ...]:
        """The candidates placed, best first, then those left in the given order (at most one, once `done`)."""
        return (*self._placed, *self._left())

    def allowed(self) -> list[int]:
        """The tokens that may come next, each once; none where the walk is done."""
        if self.done:
            return []
        if self._forced:
            return self._forced[-1:]
        tokens = [self.item.bodies[j][self._depth] for j in self._going_on()]
        return list(dict.fromkeys(tokens + self._behind_ended()))

    def advance(self) -> list[int]:
        """Take the tokens that are forced; behind them the walk is done or has a choice."""
        taken: list[int] = []
        while len(allowed := self.allowed()) == 1:
            taken.append(allowed[0])
            self.step(allowed[0])
        return taken

    def step(self, token: int) -> None:
        """Take an allowed token; `ValueError` for another one. A walk that is done stays as it is."""
        if self.done:
            return
        if token not in self.allowed():
            raise ValueError(f"token {token} is not one of those allowed: {self.allowed()}")
        if self._forced:
            self._forced.pop()
            return
        going_on = [j for j in self._going_on() if self.item.bodies[j][self._depth] == token]
        if going_on:
            self._alive, self._depth = going_on, self._depth + 1
            self._settle()
        else:
            self._place(self._ended()[0])
            self.step(token)

    def _left(self) -> list[int]:
        return [j for j in range(len(self.item.bodies)) if j not in self._placed]

    def _going_on(self) -> list[int]:
        return [j for j in self._alive if len(self.item.bodies[j]) > self._depth]

    def _ended(self) -> list[int]:
        return [j for j in self._alive if len(self.item.bodies[j]) == self._depth]

    def _behind_ended(self) -> list[int]:
        """What may follow if the body that has ended is the one meant."""
        ended = self._ended()
        if not ended:
            return []
        head = self.item.heads[len(self._placed) + 1]
        return list(head[:1]) or [self.item.bodies[j][0] for j in self._left() if j != ended[0]]

    def _begin(self) -> None:
        """Open the next rank: its head is forced, then every candidate left is possible."""
        self._alive, self._depth = self._left(), 0
        if not self.done:
            self._forced = [*reversed(self.item.heads[len(self._placed)]), *self._forced]
            self._settle()

    def _settle(self) -> None:
        """Place a candidate as soon as no other body is possible: the rest of its tokens is forced."""
        if len({self.item.bodies[j] for j in self._alive}) == 1:
            self._place(self._alive[0])

    def _place(self, candidate: int) -> None:
        rest = self.item.bodies[candidate][self._depth :]
        self._forced = [*reversed(rest), *self._forced]
        self._placed.append(candidate)
        self._begin()
