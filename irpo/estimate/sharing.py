"""How the processes of a run share it, as `--processes` and `--launch` say."""

from __future__ import annotations

from dataclasses import dataclass

from irpo.types import UserError

LAUNCHES = {"ddp": False, "fsdp2": True, "fsdp2_qlora": True}  # whether each process has only its part of the weights


@dataclass(frozen=True)
class Sharing:
    """So many processes, one a GPU, and how they hold the weights; `UserError` where that has no estimate."""

    processes: int = 1
    launch: str = "ddp"

    def __post_init__(self) -> None:
        if self.launch not in LAUNCHES:
            raise UserError(f"--launch {self.launch!r} has no estimate; choose from {', '.join(LAUNCHES)}")
        if self.processes < 1:
            raise UserError(f"--processes {self.processes}: there must be one at least")

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over processes; one alone holds them whole."""
        return self.processes > 1 and LAUNCHES[self.launch]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out of the estimate."""
        if self.processes == 1:
            return ()
        sent = "weights and gradients" if self.sharded else "gradients"
        return (f"the time that the processes take to send each other {sent} is not counted: it hangs on the links",)


ALONE = Sharing()


def sharing_of(processes: int | None, launch: str | None) -> Sharing:
    """What `--processes` and `--launch` ask for; as `train`, which takes the second only with the first."""
    if processes is None and launch is not None:
        raise UserError("--launch says how processes share the work; --processes says how many")
    return Sharing(processes or 1, launch or ALONE.launch)
